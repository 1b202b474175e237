"""`servekit up`: from a configuration to answers, then the server's log until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servekit.cli import first_answers
from servekit.cli.address import SECONDS
from servekit.cli.interrupts import interrupt_on
from servekit.cli.output import say, stage
from servekit.cli.prepare import prepare
from servekit.errors import EngineError, ExitCode
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.choose import Engine
    from servekit.engine.server import Server
    from servekit.engine.stack import Options
    from servekit.engine.state import EngineState


@click.command(name="up")
@click.option(
    "--engine", default="auto", show_default=True, type=click.Choice(["auto", "docker", "native", "embedded"]),
    help="docker: the stack of docker-compose.yaml; native: a tensorflow_model_server on PATH; embedded: servekit's "
    "own; auto: the one that runs, or the first that works.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Leave the server running; `servekit down` ends it.")
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC.  [default: server.port of serving.yaml]")
@click.option("--rest-api-port", type=click.IntRange(1, 65535), help="REST and metrics.  [default: likewise]")
@click.option(
    "--bind", metavar="ADDRESS",
    help="0.0.0.0: every interface; with docker REST and Grafana only.  [default: 127.0.0.1]",
)  # fmt: skip
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="For the models to load.",
)
@click.option("--no-demo", is_flag=True, help="Do not send the photograph.")
def command(
    engine: str,
    detach: bool,
    port: int | None,
    rest_api_port: int | None,
    bind: str | None,
    timeout_s: float,
    no_demo: bool,
) -> None:
    """Export what is missing, render, start the server, show its answers.

    Then it stays with the server's log until Ctrl-C, which ends the server (exit status 130). A second `up` finds the
    server running and says so. Ctrl-C or SIGTERM at any moment leaves no process behind.

    With docker it starts the model server, Prometheus and Grafana as `docker compose up` does; images that are not
    there are pulled and built first. A second `up` there brings the running stack to what the files say.
    """
    from servekit.engine.stack import Options

    interrupt_on(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        _up(bundle(), engine, Options(port, rest_api_port, bind), detach=detach, timeout_s=timeout_s, demo=not no_demo)
    except OSError as error:
        raise EngineError(f"{error.filename or 'up'}: {error.strerror}") from error


def _up(here: Bundle, requested: str, options: Options, *, detach: bool, timeout_s: float, demo: bool) -> None:
    from servekit.cli import up_stack
    from servekit.config.load import load
    from servekit.engine import choose, docker, images, server, stack, state

    serving = load(here.serving_yaml)
    with server.only_one(here):
        running = state.read_running(here)
        wanted = running.engine if running and requested == "auto" else requested
        compose = stack.compose(here, serving, options) if wanted in ("auto", "docker") else None
        probes = choose.probes((lambda: images.probe(compose, say)) if compose else None)
        engine, why = choose.choose(wanted, probes)
        say(why)
        if running is not None and running.engine != engine.name:
            raise EngineError(
                f"a server is running already ({_about(running)})", hint="servekit down, then servekit up"
            )
        if isinstance(compose, docker.Compose) and engine.name == "docker":
            where = up_stack.up(here, compose, timeout_s=timeout_s, demo=demo).where
            stay = partial(up_stack.stay, compose)
        else:
            started = _up_process(here, serving, engine, options, running, detach, timeout_s, demo=demo)
            if started is None:
                return
            where, stay = started.state.where, partial(_stay, started)
    if detach:
        click.echo(f"The server goes on in the background ({where}): {first_answers.program(here)} down ends it.")
    else:
        stay()


def _up_process(
    here: Bundle,
    serving: Serving,
    engine: Engine,
    options: Options,
    running: EngineState | None,
    detach: bool,
    timeout_s: float,
    *,
    demo: bool,
) -> Server | None:
    """None when a server with the same options runs already, and all is told."""
    from servekit.engine import preflight, server

    bind = options.bind or "127.0.0.1"
    grpc_port = options.port or serving.server.port
    rest_port = options.rest_api_port or serving.server.rest_api_port
    if running is None:
        preflight.check_ports(bind if engine.listens_where_told else "0.0.0.0",  # noqa: S104
                              {"port": grpc_port, "rest-api-port": rest_port})  # fmt: skip
    serving = prepare(here, running)
    plan = server.plan(serving, engine, here, bind=bind, grpc_port=grpc_port, rest_port=rest_port)
    if running is not None:
        _already_running(here, serving, running, plan.config_hash, timeout_s)
        return None
    if not engine.listens_where_told:
        say(f"warning: {engine.name} listens on all interfaces: it has no flag for an address; use a firewall")
    started = server.start(plan, here, detach=detach)
    try:
        _until_ready(here, serving, started.state, started.ended, timeout_s)
        first_answers.print_answers(first_answers.ask(here, serving, started.state) if demo else [])
        first_answers.print_urls(here, serving, started.state)
    except BaseException:
        started.stop()
        raise
    return started


def _until_ready(
    here: Bundle, serving: Serving, running: EngineState, ended: Callable[[], str | None], timeout_s: float
) -> None:
    from servekit.client import Client
    from servekit.engine import ready, server

    wanted = server.wanted_versions(serving, here.models)
    # Over gRPC: TF Serving counts REST status calls as requests, which waters down error rates.
    with stage(f"wait until {server.listed(wanted)} are AVAILABLE"), Client(running.grpc_url) as client:
        ready.wait_until_available(client, wanted, ended=ended, log=Path(running.log), timeout_s=timeout_s)


def _already_running(here: Bundle, serving: Serving, running: EngineState, config_hash: str, timeout_s: float) -> None:
    from servekit.cli import status

    about = _about(running)
    if running.config_hash != config_hash:
        raise EngineError(
            f"a server is running already ({about}), started with other options or settings",
            hint="servekit down, then servekit up",
        )
    say(f"a server is running already ({about})")
    _until_ready(here, serving, running, lambda: None if running.is_running() else "exit status unknown", timeout_s)
    first_answers.print_urls(here, serving, running)
    patience_s = serving.server.poll_seconds + 5.0  # what was rendered just now may not have been read yet
    if not status.show(here, running.grpc_url, as_json=False, timeout_s=30, patience_s=patience_s):
        sys.exit(ExitCode.NO)


def _about(running: EngineState) -> str:
    return f"{running.engine}, {running.where}, {running.rest_url}"


def _stay(server: Server) -> None:
    """The server's log on stderr until it ends or somebody interrupts. Exit status 130 then."""
    from servekit.engine.log import Follower

    say("The server's log follows; Ctrl-C ends the server.")
    follower = Follower(Path(server.state.log), lambda text: print(text, end="", file=sys.stderr, flush=True))
    try:
        while (how := server.ended()) is None:
            follower.pass_on()
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
