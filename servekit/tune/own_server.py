"""A server of ours on free ports of 127.0.0.1, with a rendered configuration that nobody else reads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from servekit.client import Client
from servekit.config.flags import server_flags
from servekit.config.render import render
from servekit.config.serving import Serving
from servekit.engine import process, ready
from servekit.engine.choose import Engine
from servekit.engine.preflight import free_port
from servekit.engine.server import BIND_ADDRESS, wanted_versions
from servekit.engine.state import born
from servekit.paths import Bundle

HOST = "127.0.0.1"
START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class OwnServer:
    """`start_s`: from the command to AVAILABLE. `folder` has its rendered files and its log."""

    child: subprocess.Popen[bytes]
    birth: str
    grpc_port: int
    rest_port: int
    folder: Path
    start_s: float

    @property
    def pid(self) -> int:
        return self.child.pid

    def url(self, protocol: str) -> str:
        return f"grpc://{HOST}:{self.grpc_port}" if protocol == "gRPC" else f"http://{HOST}:{self.rest_port}"

    def ended(self) -> str | None:
        """How, None while it runs."""
        status = self.child.poll()
        return None if status is None else f"exit status {status}"

    def end(self) -> None:
        """At once: nobody but us asks it anything."""
        process.end(self.child.pid, self.birth, 0, first=signal.SIGKILL)
        self.child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(serving: Serving, engine: Engine, bundle: Bundle, folder: Path) -> OwnServer:
    """Returns when all models of `serving` are there. It ends with us, however we end. Raises EngineError."""
    began = time.monotonic()
    for name, text in render(serving, models=bundle.models, templates=bundle.templates).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    grpc_port = free_port(HOST)
    while (rest_port := free_port(HOST)) == grpc_port:
        pass
    flags = server_flags(serving, rendered=folder, port=grpc_port, rest_api_port=rest_port)
    log = folder / "server.log"
    with log.open("wb") as output:
        child = process.spawn([*engine.program, *flags], output, env={BIND_ADDRESS: HOST}, when_we_die=signal.SIGKILL)
    birth = born(child.pid) or ""
    server = OwnServer(child, birth, grpc_port, rest_port, folder, 0.0)
    try:
        with Client(server.url("REST")) as client:
            wanted = wanted_versions(serving, bundle.models)
            ready.wait_until_available(client, wanted, ended=server.ended, log=log, timeout_s=START_TIMEOUT_S)
    except BaseException:
        server.end()
        raise
    return OwnServer(child, birth, grpc_port, rest_port, folder, time.monotonic() - began)
