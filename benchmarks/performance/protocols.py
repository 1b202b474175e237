"""gRPC against REST: the bytes of an image, and the same image as floats."""

from __future__ import annotations

import numpy as np

from benchmarks.performance.section import Plot, Section, column, in_pairs, in_turn
from benchmarks.performance.stand import Stand
from servekit.tune.figures import together

TITLE = "gRPC against REST"
ABOUT = (
    "One client, one image in a request, four ways in turn: the JPEG's bytes (base64 in REST) to `serving_default`, "
    "and the network's input of 224 x 224 x 3 float32 to `tensor`. Sizes are of the messages, without HTTP headers."
)


def measure(stand: Stand) -> Section:
    floats = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    kinds = {
        "JPEG": stand.photo_requests("imagenet"),
        "floats": stand.requests_for("imagenet", {"images": floats}, "tensor"),
    }
    with stand.serving({"imagenet": stand.version("imagenet")}) as server:
        sides = {
            f"{kind}, {protocol}": (lambda p=protocol, r=asked[protocol]: stand.measure(server, p, r, 1))
            for kind, asked in kinds.items()
            for protocol in ("REST", "gRPC")
        }
        found = in_turn(sides, stand.rounds)
    rows, ratios = [], []
    for kind, asked in kinds.items():
        rest, grpc = found[f"{kind}, REST"], found[f"{kind}, gRPC"]
        for protocol, one in (("REST", together(rest)), ("gRPC", together(grpc))):
            size = len(asked[protocol][0].body)
            rows.append((kind, protocol, size, one.per_second, one.p50_ms, one.p99_ms, one.cpu_ms))
        ratios.append(
            in_pairs(f"{kind}: answers a second, gRPC / REST", *(column(x, "per_second") for x in (grpc, rest)))
        )
        ratios.append(in_pairs(f"{kind}: p50, gRPC / REST", *(column(x, "p50_ms") for x in (grpc, rest))))
        sizes = [[float(len(asked[protocol][0].body))] for protocol in ("gRPC", "REST")]
        ratios.append(in_pairs(f"{kind}: bytes of a request, gRPC / REST", *sizes))
    return Section(
        ("input", "protocol", "request bytes", "per second", "p50 ms", "p99 ms", "server CPU ms"),
        tuple(rows),
        tuple(ratios),
        Plot(
            "p50 latency",
            "ms",
            bars={kind: {row[1]: row[4] or 0.0 for row in rows if row[0] == kind} for kind in kinds},
        ),
    )
