"""Settings under load, each on a server of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from servekit.bench.generator import Generator
from servekit.bench.processor import cpu_seconds, machine_cpu_seconds
from servekit.bench.report import BUSY
from servekit.bench.traffic import Job, Request, Shape
from servekit.client import Client
from servekit.config.serving import Serving
from servekit.engine.choose import Engine
from servekit.errors import EngineError
from servekit.paths import Bundle
from servekit.tune.figures import Figures, figures_of
from servekit.tune.own_server import OwnServer, start
from servekit.tune.setting import Setting, applied

SETTLING_ROUNDS = 2
AT_ONCE = 3
"""Servers that stay: the two of a duel, and one that is likely to come again. The others are idle meanwhile."""


@dataclass(frozen=True, slots=True)
class Load:
    """What every setting is asked. `requests` by protocol, REST and gRPC; `batch` rows in each."""

    protocol: str
    requests: Mapping[str, tuple[Request, ...]]
    batch: int = 1
    timeout_s: float = 30.0


class Arena:
    """Measures settings of `serving`, which serves nothing but the model in question. Ends its servers on exit.

    `work`: a folder of its own, removed on exit. `prepare` asks the first server for the model's signature.
    """

    def __init__(
        self, serving: Serving, engine: Engine, bundle: Bundle, work: Path, prepare: Callable[[Client], Load]
    ) -> None:
        self._serving, self._engine, self._bundle, self._work, self._prepare = serving, engine, bundle, work, prepare
        self._load: Load | None = None
        self.start_s = 5.0
        """How long the last server took to start."""
        self._servers: dict[Setting, OwnServer] = {}
        self._warm: set[Setting] = set()
        self._generator = Generator()
        self._number = 0

    def __enter__(self) -> Arena:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        self._generator.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._servers:
            self._servers.popitem()[1].end()
        self._generator.__exit__(kind, error, trace)
        shutil.rmtree(self._work, ignore_errors=True)

    def measure(self, setting: Setting, clients: int, seconds: float, warmup_s: float) -> Figures:
        """One round of load; starts the setting's server where it is not running. Raises EngineError when it does not
        start."""
        server = self._server(setting)
        if self._load is None:
            with Client(server.url("REST")) as client:
                self._load = self._prepare(client)
        load = self._load
        url, requests = server.url(load.protocol), load.requests[load.protocol]
        if setting not in self._warm:
            # Every number of rows that meets for the first time has its kernels prepared, which takes a second.
            settling = max(SETTLING_ROUNDS * seconds, 0.5)
            self._generator.run(Job(url, requests, Shape(clients=clients), settling, 0.0, load.timeout_s))
            self._warm.add(setting)
        job = Job(url, requests, Shape(clients=clients), seconds, warmup_s, load.timeout_s)
        before, all_before, began = cpu_seconds(server.pid), machine_cpu_seconds(), time.monotonic()
        sample = self._generator.run(job)
        after, all_after, lasted = cpu_seconds(server.pid), machine_cpu_seconds(), time.monotonic() - began
        if (how := server.ended()) is not None:
            self._servers.pop(setting).end()
            raise EngineError(f"the server ended under load ({how})")
        used = None if before is None or after is None else after - before
        used_by_all = None if all_before is None or all_after is None else all_after - all_before
        return figures_of(sample, used, used_by_all, lasted, load.batch, BUSY)

    def _server(self, setting: Setting) -> OwnServer:
        if setting not in self._servers:
            while len(self._servers) >= AT_ONCE:
                self._servers.pop(next(iter(self._servers))).end()
            self._number += 1
            serving, folder = applied(self._serving, setting), self._work / str(self._number)
            self._warm.discard(setting)
            self._servers[setting] = start(serving, self._engine, self._bundle, folder)
            self.start_s = self._servers[setting].start_s
        self._servers[setting] = self._servers.pop(setting)  # the one that was asked last comes last
        return self._servers[setting]


def rounds(
    arena: Arena,
    settings: Sequence[Setting],
    clients: int,
    count: int,
    seconds: float,
    warmup_s: float,
) -> dict[Setting, list[Figures]]:
    """`count` rounds of load on each, in turn and every other time in reverse, so that whatever the machine does
    meanwhile hits all of them alike."""
    found: dict[Setting, list[Figures]] = {setting: [] for setting in settings}
    for number in range(count):
        for setting in settings if number % 2 == 0 else reversed(settings):
            found[setting].append(arena.measure(setting, clients, seconds, warmup_s))
    return found
