"""`servekit up`: from a configuration to answers, then the server's log until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from servekit.cli.address import SECONDS
from servekit.cli.output import say, stage
from servekit.errors import EngineError, ExitCode
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.demo import Answer
    from servekit.engine.server import Server
    from servekit.engine.state import EngineState

SPARE_MB = 20
"""Room for rendered files and a log."""


@click.command(name="up")
@click.option(
    "--engine", default="auto", show_default=True, type=click.Choice(["auto", "native", "embedded"]),
    help="native: a tensorflow_model_server on PATH; embedded: servekit's own; auto: the first that works.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Leave the server running; `servekit down` ends it.")
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC.  [default: server.port of serving.yaml]")
@click.option("--rest-api-port", type=click.IntRange(1, 65535), help="REST and metrics.  [default: likewise]")
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="0.0.0.0: every interface.")
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
    engine: str, detach: bool, port: int | None, rest_api_port: int | None, bind: str, timeout_s: float, no_demo: bool
) -> None:
    """Export what is missing, render, start the server, show its answers.

    Then it stays with the server's log until Ctrl-C, which ends the server (exit status 130). A second `up` finds the
    server running and says so. Ctrl-C or SIGTERM at any moment leaves no process behind.
    """
    _interrupt_on(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        _up(bundle(), engine, detach, port, rest_api_port, bind, timeout_s, demo=not no_demo)
    except OSError as error:
        raise EngineError(f"{error.filename or 'up'}: {error.strerror}") from error


def _interrupt_on(*signals: signal.Signals) -> None:
    """Each is like Ctrl-C. What our parent had ignored (nohup) stays ignored, except SIGINT and SIGTERM."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in signals:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def _up(
    here: Bundle,
    requested: str,
    detach: bool,
    port: int | None,
    rest_api_port: int | None,
    bind: str,
    timeout_s: float,
    *,
    demo: bool,
) -> None:
    from servekit.config.bundle import render_bundle
    from servekit.config.load import load
    from servekit.engine import choose, exporting, preflight, server, state

    serving = load(here.serving_yaml)
    grpc_port, rest_port = port or serving.server.port, rest_api_port or serving.server.rest_api_port
    with server.only_one(here):
        engine, why = choose.choose(requested, choose.probes())
        say(why)
        running = state.read_running(here)
        if running is None:
            preflight.check_ports(bind if engine.listens_where_told else "0.0.0.0",  # noqa: S104
                                  {"port": grpc_port, "rest-api-port": rest_port})  # fmt: skip
        missing = exporting.missing_versions(serving, here, exporting.recipe_versions)
        preflight.check_disk(here.root, exporting.NEEDED_MB if missing else SPARE_MB)
        if missing:
            say(f"export {', '.join(map(str, missing))}")
            exporting.export_all(missing, say)
        with stage("render config/rendered"):
            rendering = render_bundle(here)
        serving = rendering.serving
        for warning in rendering.warnings:
            say(f"warning: {warning}")
        plan = server.plan(serving, engine, here, bind=bind, grpc_port=grpc_port, rest_port=rest_port)
        if running is not None:
            _already_running(here, serving, running, plan.config_hash, timeout_s)
            return
        if not engine.listens_where_told:
            say(f"warning: {engine.name} listens on all interfaces: it has no flag for an address; use a firewall")
        started = server.start(plan, here, detach=detach)
        try:
            _until_ready(here, serving, started.state, started.ended, timeout_s)
            _print_answers(_demo(here, serving, started.state) if demo else [])
            _print_urls(here, serving, started.state)
        except BaseException:
            started.stop()
            raise
    if detach:
        click.echo(f"The server goes on in the background (pid {started.state.pid}): {_servekit(here)} down ends it.")
    else:
        _stay(started)


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

    about = f"{running.engine}, pid {running.pid}, {running.rest_url}"
    if running.config_hash != config_hash:
        raise EngineError(
            f"a server is running already ({about}), started with other options or settings",
            hint="servekit down, then servekit up",
        )
    say(f"a server is running already ({about})")
    _until_ready(here, serving, running, lambda: None if running.is_running() else "exit status unknown", timeout_s)
    _print_urls(here, serving, running)
    patience_s = serving.server.poll_seconds + 5.0  # what was rendered just now may not have been read yet
    if not status.show(here, running.grpc_url, as_json=False, timeout_s=30, patience_s=patience_s):
        sys.exit(ExitCode.NO)


def _demo(here: Bundle, serving: Serving, running: EngineState) -> list[Answer]:
    from servekit.client import Client
    from servekit.engine import demo

    photograph = here.samples / "chelsea.png"
    answers: list[Answer] = []
    with Client(running.rest_url) as rest, Client(running.grpc_url) as grpc:
        for name, model in serving.models.items():
            if not photograph.is_file() or not model.labels or not demo.takes_images(grpc, name):
                continue
            with stage(f"send {photograph.name} to {name}: {', '.join(model.labels)}"):
                for protocol, client in (("REST", rest), ("gRPC", grpc)):
                    answers += demo.ask(client, protocol, name, list(model.labels), photograph)
    return answers


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


def _print_answers(answers: list[Answer]) -> None:
    if not answers:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("protocol", "label"):
        table.add_column(column)
    table.add_column("version", justify="right")
    table.add_column("top label")
    table.add_column("probability", justify="right")
    table.add_column("ms", justify="right")
    for one in answers:
        table.add_row(
            one.protocol, one.label, str(one.version), one.best, f"{one.probability:.4f}", f"{one.milliseconds:.0f}"
        )
    Console().print(table)


def _print_urls(here: Bundle, serving: Serving, running: EngineState) -> None:
    name, model = next(iter(serving.models.items()))
    click.echo(f"REST     {running.rest_url}/v1/models/{name}:predict")
    click.echo(f"gRPC     {running.host}:{running.grpc_port}")
    click.echo(f"status   {running.rest_url}/v1/models/{name}")
    if serving.monitoring.enabled:
        click.echo(f"metrics  {running.rest_url}{serving.monitoring.path}")
    servekit = _servekit(here)
    click.echo("Try:")
    if (photograph := here.samples / "chelsea.png").is_file():
        for label in list(model.labels)[-1:]:
            click.echo(f"  {servekit} predict {name} {_short(photograph)} --label {label}")
    click.echo(f"  {servekit} status")
    click.echo(f"  {servekit} inspect {name}")


def _servekit(here: Bundle) -> str:
    script = here.root / "scripts" / "servekit"
    if not script.is_file():
        return "servekit"
    return f"./{_short(script)}" if script.is_relative_to(Path.cwd()) else _short(script)


def _short(path: Path) -> str:
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
