"""What `up` shows when the server runs: a photograph's answers by label, and where everything is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servekit.cli.output import stage
from servekit.paths import Bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.demo import Answer
    from servekit.engine.state import EngineState


def ask(here: Bundle, serving: Serving, running: EngineState) -> list[Answer]:
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


def print_answers(answers: list[Answer]) -> None:
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


def print_urls(here: Bundle, serving: Serving, running: EngineState) -> None:
    name, model = next(iter(serving.models.items()))
    click.echo(f"REST     {running.rest_url}/v1/models/{name}:predict")
    click.echo(f"gRPC     {running.grpc_address}")
    click.echo(f"status   {running.rest_url}/v1/models/{name}")
    if serving.monitoring.enabled:
        click.echo(f"metrics  {running.rest_url}{serving.monitoring.path}")
    if running.gateway_url:
        click.echo(f"gateway  {running.gateway_url}/metrics")
    servekit = program(here)
    click.echo("Try:")
    if (photograph := here.samples / "chelsea.png").is_file():
        for label in list(model.labels)[-1:]:
            click.echo(f"  {servekit} predict {name} {_short(photograph)} --label {label}")
    click.echo(f"  {servekit} status")
    click.echo(f"  {servekit} inspect {name}")


def program(here: Bundle) -> str:
    script = here.root / "scripts" / "servekit"
    if not script.is_file():
        return "servekit"
    return f"./{_short(script)}" if script.is_relative_to(Path.cwd()) else _short(script)


def _short(path: Path) -> str:
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
