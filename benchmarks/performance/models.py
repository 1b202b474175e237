"""1, 2 and 10 models in one server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.load import rss_kib
from benchmarks.performance.section import Plot, Section, column, in_pairs, in_turn
from benchmarks.performance.stand import Stand, texts
from servekit.tune.figures import Figures, together

TITLE = "1, 2 and 10 models"
ABOUT = (
    "The same network under so many names in one server, 16 clients over gRPC, requests to all names in turn. Batches "
    "are of one model, so rows of different models do not meet."
)
COUNTS = (1, 2, 10)


def measure(stand: Stand) -> Section:
    version = stand.version("imagenet")
    with ExitStack() as stack:
        servers = {}
        for count in COUNTS:
            names: dict[str, Path] = {f"m{number}": version for number in range(count)}
            asked = [stand.requests_for(name, {"image_bytes": texts(stand.photo)})["gRPC"][0] for name in names]
            servers[count] = (stack.enter_context(stand.serving(names)), asked)
        sides: dict[str, Callable[[], Figures]] = {
            str(count): partial(stand.measure, server, "gRPC", asked, 16) for count, (server, asked) in servers.items()
        }
        found = in_turn(sides, stand.rounds)
        rows = []
        for count, (server, _) in servers.items():
            one = together(found[str(count)])
            memory = round(rss_kib(server.pid) / 1024)
            rows.append((count, one.per_second, one.p50_ms, one.p99_ms, one.cpu_ms, memory, round(server.start_s, 1)))
    alone = column(found["1"], "per_second")
    ratios = [
        in_pairs(f"answers a second, {count} models / 1", column(found[str(count)], "per_second"), alone)
        for count in COUNTS[1:]
    ]
    return Section(
        ("models", "per second", "p50 ms", "p99 ms", "server CPU ms", "memory MiB", "start s"),
        tuple(rows),
        tuple(ratios),
        Plot(
            "answers a second", "", bars={f"{row[0]} model{'s' if row[0] != 1 else ''}": {"": row[1]} for row in rows}
        ),
    )
