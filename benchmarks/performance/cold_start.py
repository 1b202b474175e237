"""The first request after a start, with and without warm-up records."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

from benchmarks.performance.section import Plot, Ratio, Section
from benchmarks.performance.stand import Stand, texts
from servekit.client import Client
from servekit.model_spec import ModelSpec
from servekit.tune.own_server import OwnServer

TITLE = "Cold start"
ABOUT = (
    "A server is started, and asked for one prediction over gRPC as soon as the version is AVAILABLE, then 60 more: "
    "*first* is that prediction, *warm p50* the median of the last 50. The signature is read before, over another "
    "connection. Without warm-up: the same version without `assets.extra/tf_serving_warmup_requests`. Medians of "
    "starts that take turns; *warm-up* is what the start takes longer."
)
AFTER, LAST = 60, 50


def measure(stand: Stand) -> Section:
    starts = max(stand.rounds - 2, 2)
    version = stand.version("imagenet")
    cold = _without_warmup(version, stand.work / "cold")
    times: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    for number in range(starts):
        sides = [("without", cold), ("with", version)]
        for name, folder in sides if number % 2 else reversed(sides):
            with stand.serving({"imagenet": folder}) as server:
                times[name].append((server.start_s, *_answers(server, stand.photo)))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    rows, ratios = [], []
    for name, (start_s, first_ms, warm_ms) in medians.items():
        rows.append((f"{name} warm-up", round(start_s, 2), round(first_ms, 1), round(warm_ms, 1)))
        pairs = tuple(round(first / warm, 2) for _, first, warm in times[name])
        most = 1.5 if name == "with" else None
        ratios.append(Ratio(f"first / warm p50, {name} warm-up", statistics.median(pairs), pairs, most=most))
    warmup_s = tuple(round(one[0] - other[0], 2) for one, other in zip(times["with"], times["without"], strict=True))
    ratios.append(Ratio("warm-up, seconds of the start", statistics.median(warmup_s), warmup_s, most=5.0))
    bars = {f"{name} warm-up": {"first": row[1], "warm p50": row[2]} for name, row in medians.items()}
    return Section(
        ("", "start s", "first ms", "warm p50 ms"), tuple(rows), tuple(ratios), Plot("a prediction", "ms", bars=bars)
    )


def _answers(server: OwnServer, photo: bytes) -> tuple[float, float]:
    """Milliseconds of the first answer and the median of the last ones."""
    spec, times = ModelSpec("imagenet"), []
    with Client(server.url("gRPC")) as client:
        client.metadata(spec)  # opens the connection
        for _ in range(1 + AFTER):
            began = time.perf_counter()
            client.predict(spec, {"image_bytes": texts(photo)})
            times.append((time.perf_counter() - began) * 1e3)
    return times[0], statistics.median(times[-LAST:])


def _without_warmup(version: Path, folder: Path) -> Path:
    def without(path: str, names: list[str]) -> set[str]:
        return {"tf_serving_warmup_requests"} & set(names) if path.endswith("assets.extra") else set()

    shutil.copytree(version, folder, ignore=without)
    return folder
