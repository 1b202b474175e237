"""One server of this bundle: how it is started, and the process once it runs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from servekit.config.flags import server_flags
from servekit.config.folders import published_versions, served_versions
from servekit.config.rendered_files import BATCHING, MONITORING
from servekit.config.serving import Serving
from servekit.engine import log as server_log
from servekit.engine import process, state
from servekit.engine.choose import Engine
from servekit.engine.gateway import GatewayPlan
from servekit.engine.ready import Wanted
from servekit.engine.state import EngineState
from servekit.engine.stop import stop
from servekit.errors import EngineError
from servekit.paths import Bundle

BIND_ADDRESS = "SERVEKIT_BIND_ADDRESS"
"""Read by the embedded server; TF Serving has no flag for the address that it listens on."""

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where a client finds a server that listens everywhere


@dataclass(frozen=True, slots=True)
class Plan:
    """A server that may be started. `config_hash` tells whether one that runs already was started the same way."""

    engine: str
    command: tuple[str, ...]
    bind: str
    grpc_port: int
    rest_port: int
    config_hash: str
    server_grpc_port: int = 0
    """Where it listens behind a gateway, which then has the two ports above; 0 without one."""
    server_rest_port: int = 0

    @property
    def host(self) -> str:
        host = _ANY.get(self.bind, self.bind)
        return f"[{host}]" if ":" in host else host


def plan(
    serving: Serving,
    engine: Engine,
    bundle: Bundle,
    *,
    bind: str,
    grpc_port: int,
    rest_port: int,
    behind: GatewayPlan | None = None,
) -> Plan:
    """Reads the rendered files that a server reads only when it starts: a change in them asks for another server.

    The ports are the clients'; `behind` a gateway the server has others, on 127.0.0.1.
    """
    fixed = [bundle.rendered / name for name in (BATCHING, MONITORING)]
    for_clients = server_flags(serving, rendered=bundle.rendered, port=grpc_port, rest_api_port=rest_port)
    gateway = serving.gateway.model_dump_json() if behind else ""
    parts = [*engine.program, *for_clients, bind, gateway, *(path.read_text() for path in fixed)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if behind is None:
        return Plan(engine.name, (*engine.program, *for_clients), bind, grpc_port, rest_port, digest)
    grpc, rest = behind.places.server_grpc.port, behind.places.server_rest.port
    flags = server_flags(serving, rendered=bundle.rendered, port=grpc, rest_api_port=rest)
    return Plan(engine.name, (*engine.program, *flags), bind, grpc_port, rest_port, digest, grpc, rest)


def wanted_versions(serving: Serving, models: Path) -> Wanted:
    """By model, the versions that its policy picks among those published."""
    return {
        name: served_versions(model, published_versions(Path(model.folder(name, models))) or set())
        for name, model in serving.models.items()
    }


@contextlib.contextmanager
def only_one(bundle: Bundle) -> Iterator[None]:
    """Keeps a second `up` from starting at the same time; the lock goes with the process that holds it."""
    bundle.state.mkdir(parents=True, exist_ok=True)
    with (bundle.state / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError("another `servekit up` is starting here", hint="servekit status") from None
        yield


class Server:
    """A server that this process started."""

    def __init__(self, child: subprocess.Popen[bytes], state: EngineState, bundle: Bundle) -> None:
        self.state = state
        self._child = child
        self._bundle = bundle

    def ended(self) -> str | None:
        """How it ended, None while it runs."""
        status = self._child.poll()
        if status is None:
            return None
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def was_asked_to_end(self) -> bool:
        """By `servekit down`, or another SIGTERM: the embedded server then exits 0, the native one dies of it."""
        return self._child.poll() in (0, -signal.SIGTERM)

    def stop(self) -> None:
        """Returns when it is gone and forgotten. A second Ctrl-C while it drains kills it."""
        try:
            stop(self._bundle, self.state)
        finally:
            self._child.wait()


def start(plan: Plan, bundle: Bundle, *, detach: bool) -> Server:
    """Writes the state of the process, then lets it begin: one that nobody could find again never serves. In the
    foreground (not `detach`) it ends with us, however we end."""
    log = server_log.path(bundle)
    with server_log.start_new(log) as output:
        child = process.spawn(
            plan.command,
            output,
            env={BIND_ADDRESS: "127.0.0.1" if plan.server_grpc_port else plan.bind},
            when_we_die=None if detach else signal.SIGTERM,
            held=True,
        )
    started = EngineState(
        engine=plan.engine,
        pid=child.pid,
        born=state.born(child.pid) or "",
        host=plan.host,
        grpc_port=plan.grpc_port,
        rest_port=plan.rest_port,
        config_hash=plan.config_hash,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log=str(log),
        server_grpc_port=plan.server_grpc_port,
        server_rest_port=plan.server_rest_port,
    )
    try:
        state.write(bundle, started)
        process.let_go(child)
    except BaseException:
        process.end(child.pid, started.born, 0)
        state.remove(bundle)  # written already, where the interrupt came while it was being made durable
        raise
    return Server(child, started, bundle)


def listed(wanted: Wanted) -> str:
    """`imagenet 1, 2; resnet 1`."""
    return "; ".join(f"{name} {_numbers(versions)}" for name, versions in wanted.items())


def _numbers(versions: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
