"""`servekit status`: what the running server serves, held against the rendered configuration."""

from __future__ import annotations

import dataclasses
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.address import address, address_options
from servekit.cli.output import print_json
from servekit.engine import state
from servekit.errors import Code, EngineError, ExitCode, StatusError, Unreachable
from servekit.paths import Bundle, bundle
from servekit.rollout import at_work

if TYPE_CHECKING:
    from servekit.engine.health import ModelHealth
    from servekit.engine.state import EngineState
    from servekit.rollout.at_work import AtWork


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@address_options
def command(as_json: bool, url: str | None, host: str | None, port: int | None, timeout_s: float) -> None:
    """Models, versions, states and labels of the running server.

    Exit status 0 when every configured model has an available version, all versions that serving.yaml names are
    available, and every label means its version; 1 otherwise.
    """
    # gRPC unless told otherwise: TF Serving counts REST status calls as requests, which waters down error rates.
    here = bundle()
    asked = bool(url or host or port)
    where = address(url=url, host=host, port=port, grpc=True)
    try:
        healthy = show(here, where, as_json=as_json, timeout_s=timeout_s, patience_s=0)
    except Unreachable as error:
        down = error if asked else _server_down(here, error)
        if as_json:
            print_json({"url": where, "running": False, "error": str(down)})
            sys.exit(ExitCode.NO)
        raise down from None
    except EngineError as error:
        if not as_json:
            raise
        print_json({"url": where, "running": None, "error": str(error)})
        sys.exit(error.exit_code)
    sys.exit(ExitCode.DONE if healthy else ExitCode.NO)


def show(here: Bundle, url: str, *, as_json: bool, timeout_s: float, patience_s: float) -> bool:
    """Prints the state of the server at `url`; True when all is as configured. Raises Unreachable, EngineError.

    `patience_s` is how long it waits for that, such as for a running server to read models.config again.
    """
    from servekit.client import Client
    from servekit.engine import health

    configured = health.configured_models(here.rendered / "models.config")
    with Client(url, timeout_s=timeout_s) as client:
        models = health.wait_until_as_configured(client, configured, patience_s)
    running = state.read_running(here)
    if running and url not in (running.grpc_url, running.rest_url):
        running = None
    if as_json:
        print_json(_document(here, url, running, models))
    else:
        _print(here, url, running, models)
    return not any(model.problems for model in models)


def _server_down(here: Bundle, error: Unreachable) -> EngineError | Unreachable:
    """A server that was started and is gone is another story than one that was never started."""
    known = state.read(here)
    if known is None:
        return error
    if known.is_running():
        if known.gateway is not None and not known.gateway.is_running():
            return EngineError(
                f"the gateway (pid {known.gateway.pid}) has ended; the server ({known.where}) runs: {error}",
                hint=f"servekit up starts it again; its log: {known.gateway.log}",
            )
        return EngineError(f"the server ({known.where}) is starting: {error}", hint=f"its log: {known.log}")
    return EngineError(
        f"the server of {known.started} ({known.where}) has ended: {error}",
        hint=f"its log: {known.log}; start it again: servekit up",
    )


def _document(here: Bundle, url: str, running: EngineState | None, models: list[ModelHealth]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "url": url,
        "running": True,
        "healthy": not any(model.problems for model in models),
        "problems": [problem for model in models for problem in model.problems],
        "engine": None,
        "controller": _controller_document(at_work.at_work(here)),
        "models": [_model_document(model) for model in models],
    }
    if running:
        document["engine"] = {
            "name": running.engine,
            "pid": running.pid or None,
            "container": running.container or None,
            "started": running.started,
            "uptime_seconds": round(running.uptime_s()),
            "grpc": running.grpc_address,
            "rest": running.rest_url,
            "log": running.log,
            "gateway": _gateway_document(running),
        }
    return document


def _gateway_document(running: EngineState) -> dict[str, Any] | None:
    gateway = running.gateway
    if gateway is None:
        return None
    return {
        "running": gateway.is_running(),
        "pid": gateway.pid,
        "metrics": f"{running.gateway_url}/metrics",
        "server_grpc": f"127.0.0.1:{running.server_grpc_port}",
        "server_rest": f"http://127.0.0.1:{running.server_rest_port}",
        "log": gateway.log,
    }


def _controller(found: AtWork | None) -> str:
    if found is None:
        return "none: `servekit apply` after an edit of serving.yaml, or `servekit apply --watch`"
    return f"{'watches' if found.watches else 'is at work'}, pid {found.pid}, since {found.since}"


def _controller_document(found: AtWork | None) -> dict[str, Any] | None:
    return dataclasses.asdict(found) if found else None


def _model_document(model: ModelHealth) -> dict[str, Any]:
    status, labels = model.observed.status, model.observed.labels
    return {
        "name": model.configured.name,
        "versions": []
        if isinstance(status, StatusError)
        else [
            {"version": one.version, "state": one.state, "error_code": one.code.name, "error_message": one.message}
            for one in status.versions
        ],
        "labels": {
            label: {"configured": version, "served": answer if isinstance(answer := labels[label], int) else None}
            for label, version in model.configured.labels.items()
        },
        "problems": list(model.problems),
    }


def _print(here: Bundle, url: str, running: EngineState | None, models: list[ModelHealth]) -> None:
    from rich.console import Console
    from rich.table import Table

    if running:
        uptime = timedelta(seconds=round(running.uptime_s()))
        click.echo(f"engine {running.engine}, {running.where}, up {uptime}")
        click.echo(f"REST {running.rest_url}, gRPC {running.grpc_address}, log {running.log}")
        if running.gateway:
            answers = "" if running.gateway.is_running() else "has ended, "
            click.echo(f"gateway {answers}pid {running.gateway.pid}, metrics {running.gateway_url}/metrics")
        click.echo(f"controller {_controller(at_work.at_work(here))}")
    else:
        click.echo(f"server {url}")
    table = Table()
    table.add_column("model")
    table.add_column("version", justify="right")
    table.add_column("state")
    table.add_column("labels")
    for model in models:
        status, served = model.observed.status, model.observed.labels
        versions = () if isinstance(status, StatusError) else status.versions
        if not versions:
            table.add_row(model.configured.name, "", "unknown", "")
        for place, one in enumerate(versions):
            labels = ", ".join(label for label, version in served.items() if version == one.version)
            name = model.configured.name if place == 0 else ""
            failed = "" if one.code is Code.OK else " (did not load)"
            table.add_row(name, str(one.version), one.state + failed, labels, end_section=place == len(versions) - 1)
    Console().print(table)
    for model in models:
        for problem in model.problems:
            click.echo(f"problem: {problem}")
