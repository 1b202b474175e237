"""A server beside the same session without one."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.performance.section import Plot, Section, column, in_pairs, in_turn
from benchmarks.performance.stand import SIGNATURES, Stand, texts
from servekit.bench.processor import cores, cpu_seconds
from servekit.bench.traffic import Request
from servekit.tune.figures import Figures, together
from servekit.tune.own_server import OwnServer

TITLE = "Served against in-process"
ABOUT = (
    "One JPEG in a request, 16 clients over gRPC, beside the same SavedModel in the measuring process: no server, no "
    "messages, no batching, a session with the same threads, called by as many threads as there are cores. `resnet` "
    "has random weights where models/resnet is not there; its speed is the same. The client is h2load where it is "
    "installed (`apt-get install nghttp2-client`): one in Python would take a twentieth of two cores from the server."
)
LONGER = {"imagenet": 1.0, "resnet": 4.0}
"""Rounds: batches of up to 8 rows of a network that takes a tenth of a second for each."""


def measure(stand: Stand) -> Section:
    rows, ratios = [], []
    bars: dict[str, dict[str, float]] = {}
    for model, signature in SIGNATURES.items():
        version = stand.version(model)
        session = _Session(version, signature or "serving_default", stand.photo)
        asked = stand.photo_requests(model)["gRPC"]
        with stand.serving({model: version}) as server:
            sides: dict[str, Callable[[], Figures]] = {
                "in-process": partial(session.measure, cores(), stand.round_s * LONGER[model]),
                "served": partial(_served, stand, server, model, asked, LONGER[model]),
            }
            found = in_turn(sides, stand.rounds)
        bars[model] = {}
        for name, parts in found.items():
            one = together(parts)
            rows.append((model, name, one.per_second, one.cpu_ms))
            bars[model][name] = one.per_second
        served, alone = (column(found[name], "per_second") for name in ("served", "in-process"))
        ratios.append(in_pairs(f"{model}: answers a second, served / in-process", served, alone, least=0.95))
    return Section(
        ("model", "", "per second", "CPU ms an answer"),
        tuple(rows),
        tuple(ratios),
        Plot("answers a second, 16 clients", "", bars=bars),
    )


def _served(stand: Stand, server: OwnServer, model: str, asked: Sequence[Request], longer: float) -> Figures:
    """With h2load, which computes next to nothing, where it is installed: the session alone has no client either."""
    if shutil.which("h2load") is None:
        return stand.measure(server, "gRPC", asked, 16, longer)
    seconds = max(round(stand.round_s * longer), 1)
    target = load.Server(server.child, server.grpc_port, server.rest_port)
    before, began = cpu_seconds(server.pid), time.monotonic()
    found = load.grpc_load(target, model, asked[0].body, clients=16, seconds=seconds, work=stand.work)
    after, lasted = cpu_seconds(server.pid), time.monotonic() - began
    used = None if before is None or after is None else (after - before) / lasted / found.per_second * 1e3
    return Figures(
        per_second=round(found.per_second, 2),
        p50_ms=round(found.p50_ms, 2),
        p99_ms=round(found.p99_ms, 2),
        error_rate=0.0,  # it ends the whole command where one failed
        cpu_ms=None if used is None else round(used, 2),
        seconds=seconds,
    )


class _Session:
    """A SavedModel in this process, with the threads that `servekit render` gives a server."""

    def __init__(self, version: Path, signature: str, photo: bytes) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from servekit.config.server import Server
        from servekit.protos import messages
        from servekit.server import session

        session.import_only_what_is_needed()
        config = messages.ConfigProto()
        config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = Server().pools()
        self._servable = session.load_saved_model(version, session_config=config)
        definition = self._servable.signature_defs[signature]
        self._feeds = {definition.inputs["image_bytes"].name: texts(photo)}
        self._fetches = [definition.outputs[name].name for name in sorted(definition.outputs)]
        self._servable.run(self._feeds, self._fetches)

    def measure(self, threads: int, seconds: float) -> Figures:
        """Runs by `threads` threads, each one after the other. Warm-up as for a server."""
        latencies: list[list[float]] = [[] for _ in range(threads)]
        begin = time.perf_counter() + seconds / 4
        workers = [threading.Thread(target=self._run, args=(found, begin, begin + seconds)) for found in latencies]
        cpu, began = time.process_time(), time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        cpu, lasted = time.process_time() - cpu, time.perf_counter() - began
        times = sorted(one for found in latencies for one in found)
        per_second = len(times) / seconds
        return Figures(
            per_second=round(per_second, 2),
            p50_ms=round(times[len(times) // 2] * 1e3, 2),
            p99_ms=round(times[len(times) * 99 // 100] * 1e3, 2),
            error_rate=0.0,
            cpu_ms=round(cpu / lasted / per_second * 1e3, 2),
            seconds=seconds,
        )

    def _run(self, latencies: list[float], begin: float, end: float) -> None:
        while (now := time.perf_counter()) < end:
            self._servable.run(self._feeds, self._fetches)
            if now >= begin:
                latencies.append(time.perf_counter() - now)
