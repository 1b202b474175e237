"""`servekit up`: from a configuration to answers, then the server's log until Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from servekit.cli import first_answers
from servekit.cli.address import SECONDS
from servekit.cli.interrupts import interrupt_on
from servekit.cli.output import say
from servekit.errors import EngineError
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.engine.stack import Options


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

    Clients reach the gateway, which labels requests without version and label; the server listens behind it.

    Then it stays with the server's log until Ctrl-C, which ends both (exit status 130). A second `up` finds the server
    running and says so. Ctrl-C or SIGTERM at any moment leaves no process behind.

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
    from servekit.cli import up_process, up_stack
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
                f"a server is running already ({up_process.about(running)})", hint="servekit down, then servekit up"
            )
        if isinstance(compose, docker.Compose) and engine.name == "docker":
            where = up_stack.up(here, compose, timeout_s=timeout_s, demo=demo).where
            stay: Callable[[], None] = partial(up_stack.stay, compose)
        else:
            started = up_process.up(here, engine, options, running, detach=detach, timeout_s=timeout_s, demo=demo)
            if started is None:
                return
            where, stay = started.server.state.where, started.stay
    if detach:
        click.echo(f"The server goes on in the background ({where}): {first_answers.program(here)} down ends it.")
    else:
        stay()
