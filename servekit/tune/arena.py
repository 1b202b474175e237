"""Servers of our own, one for each setting, on free ports with a rendered configuration that nobody else reads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from servekit.bench.generator import Generator
from servekit.bench.report import BUSY
from servekit.bench.session import cpu_seconds, machine_cpu_seconds
from servekit.bench.traffic import Job, Request, Shape
from servekit.client import Client
from servekit.config.flags import server_flags
from servekit.config.render import render
from servekit.config.serving import Serving
from servekit.engine import process, ready
from servekit.engine.choose import Engine
from servekit.engine.preflight import free_port
from servekit.engine.server import BIND_ADDRESS, wanted_versions
from servekit.engine.state import born
from servekit.errors import EngineError
from servekit.paths import Bundle
from servekit.tune.figures import Figures, figures_of
from servekit.tune.setting import Setting, applied

HOST = "127.0.0.1"
START_TIMEOUT_S = 300.0
AT_ONCE = 3
"""Servers that stay: the two of a duel, and one that is likely to come again. The others are idle meanwhile."""


@dataclass(frozen=True, slots=True)
class Load:
    """What every setting is asked. `requests` by protocol, REST and gRPC; `batch` rows in each."""

    protocol: str
    requests: Mapping[str, tuple[Request, ...]]
    batch: int = 1
    timeout_s: float = 30.0


@dataclass(slots=True)
class _Server:
    child: subprocess.Popen[bytes]
    birth: str
    grpc_port: int
    rest_port: int
    folder: Path
    used: float = field(default_factory=time.monotonic)

    def url(self, protocol: str) -> str:
        return f"grpc://{HOST}:{self.grpc_port}" if protocol == "gRPC" else f"http://{HOST}:{self.rest_port}"

    def ended(self) -> str | None:
        status = self.child.poll()
        return None if status is None else f"exit status {status}"


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
        self._servers: dict[Setting, _Server] = {}
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
        for setting in list(self._servers):
            self._stop(setting)
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
        job = Job(url, requests, Shape(clients=clients), seconds, warmup_s, load.timeout_s)
        before, all_before, began = cpu_seconds(server.child.pid), machine_cpu_seconds(), time.monotonic()
        sample = self._generator.run(job)
        after, all_after, lasted = cpu_seconds(server.child.pid), machine_cpu_seconds(), time.monotonic() - began
        if (how := server.ended()) is not None:
            self._servers.pop(setting)
            raise EngineError(f"the server ended under load ({how})")
        used = None if before is None or after is None else after - before
        used_by_all = None if all_before is None or all_after is None else all_after - all_before
        return figures_of(sample, used, used_by_all, lasted, load.batch, BUSY)

    def _server(self, setting: Setting) -> _Server:
        if setting not in self._servers:
            while len(self._servers) >= AT_ONCE:
                self._stop(min(self._servers, key=lambda one: self._servers[one].used))
            self._servers[setting] = self._start(setting)
        self._servers[setting].used = time.monotonic()
        return self._servers[setting]

    def _start(self, setting: Setting) -> _Server:
        self._number += 1
        began = time.monotonic()
        folder = self._work / str(self._number)
        serving = applied(self._serving, setting)
        for name, text in render(serving, models=self._bundle.models, templates=self._bundle.templates).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        grpc_port = free_port(HOST)
        while (rest_port := free_port(HOST)) == grpc_port:
            pass
        flags = server_flags(serving, rendered=folder, port=grpc_port, rest_api_port=rest_port)
        log = folder / "server.log"
        with log.open("wb") as output:
            child = process.spawn(
                [*self._engine.program, *flags], output, env={BIND_ADDRESS: HOST}, when_we_die=signal.SIGKILL
            )
        server = _Server(child, born(child.pid) or "", grpc_port, rest_port, folder)
        try:
            with Client(server.url("REST")) as client:
                wanted = wanted_versions(serving, self._bundle.models)
                ready.wait_until_available(client, wanted, ended=server.ended, log=log, timeout_s=START_TIMEOUT_S)
        except BaseException:
            _end(server)
            raise
        self.start_s = time.monotonic() - began
        return server

    def _stop(self, setting: Setting) -> None:
        _end(self._servers.pop(setting))


def _end(server: _Server) -> None:
    """At once: nobody but us asks it anything."""
    process.end(server.child.pid, server.birth, 0, first=signal.SIGKILL)
    server.child.wait()
    shutil.rmtree(server.folder, ignore_errors=True)


def rounds(
    arena: Arena,
    settings: Sequence[Setting],
    clients: int,
    count: int,
    seconds: float,
    warmup_s: float,
    progress: Callable[[int], None] = lambda _number: None,
) -> dict[Setting, list[Figures]]:
    """`count` rounds of load on each, in turn and every other time in reverse, so that whatever the machine does
    meanwhile hits all of them alike."""
    found: dict[Setting, list[Figures]] = {setting: [] for setting in settings}
    for number in range(count):
        progress(number)
        for setting in settings if number % 2 == 0 else reversed(settings):
            found[setting].append(arena.measure(setting, clients, seconds, warmup_s))
    return found
