"""Batching and session threads: TensorFlow Serving's own defaults, with batching alone, and ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks.performance.section import Plot, Section, column, in_pairs, in_turn
from benchmarks.performance.stand import Stand
from servekit.tune.figures import Figures, together

TITLE = "Batching and threads"
ABOUT = (
    "`imagenet`, one JPEG in a request over gRPC, at 1, 4 and 16 clients. *TF Serving's own*: no batching, operations "
    "divided among all cores. *batching alone*: our batching with those threads. *ours*: what `servekit render` gives "
    "without any setting. *ours, no batching*: our threads alone."
)
OWN_THREADS = "server: {tensorflow_intra_op_parallelism: 0, tensorflow_inter_op_parallelism: 0}"
SETTINGS = {
    "TF Serving's own": f"batching: {{enabled: false}}\n{OWN_THREADS}",
    "batching alone": OWN_THREADS,
    "ours": "",
    "ours, no batching": "batching: {enabled: false}",
}
CLIENTS = (1, 4, 16)


def measure(stand: Stand) -> Section:
    asked = stand.photo_requests("imagenet")["gRPC"]
    found: dict[int, dict[str, list[Figures]]] = {}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(stand.serving({"imagenet": stand.version("imagenet")}, text))
            for name, text in SETTINGS.items()
        }
        for clients in CLIENTS:
            sides: dict[str, Callable[[], Figures]] = {
                name: partial(stand.measure, server, "gRPC", asked, clients) for name, server in servers.items()
            }
            found[clients] = in_turn(sides, stand.rounds)
    rows = [
        (name, clients, one.per_second, one.p50_ms, one.p99_ms, one.cpu_ms)
        for clients, sides in found.items()
        for name, one in ((name, together(parts)) for name, parts in sides.items())
    ]
    ratios = []
    for clients in CLIENTS:
        own = column(found[clients]["TF Serving's own"], "per_second")
        for name in list(SETTINGS)[1:]:
            least = 1.15 if clients == 16 and name == "ours" else None
            what = f"{clients} client{'s' if clients > 1 else ''}: answers a second, {name} / TF Serving's own"
            ratios.append(in_pairs(what, column(found[clients][name], "per_second"), own, least=least))
    lines = {name: [(row[1], row[2]) for row in rows if row[0] == name] for name in SETTINGS}
    return Section(
        ("setting", "clients", "per second", "p50 ms", "p99 ms", "server CPU ms"),
        tuple(rows),
        tuple(ratios),
        Plot("answers a second", "clients", lines=lines),
    )
