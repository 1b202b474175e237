"""Where the controller finds the model server and the gateway: told, or as `up` started them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from servekit.cli.address import address
from servekit.engine import state
from servekit.paths import Bundle

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Reach:
    """`server_url`: the model server's gRPC, behind the gateway. `gateway_url`: the gateway's metrics port, None where
    there is none. `container`: they read config/rendered/container."""

    server_url: str
    gateway_url: str | None
    container: bool
    prometheus_url: str | None = None


def reach_options(command: Command) -> Command:
    """Adds --gateway-url and --prometheus-url."""
    for option in (
        click.option(
            "--prometheus-url",
            envvar="SERVEKIT_PROMETHEUS_URL",
            metavar="URL",
            help="For PromQL queries of the analysis.",
        ),
        click.option(
            "--gateway-url",
            envvar="SERVEKIT_GATEWAY_URL",
            metavar="URL",
            help="Metrics port of the gateway.  [default: of the one that `up` started]",
        ),
    ):
        command = option(command)
    return command


def reach(
    here: Bundle, *, url: str | None = None, host: str | None = None, port: int | None = None,
    gateway_url: str | None = None, prometheus_url: str | None = None, container: bool = False,
) -> Reach:  # fmt: skip
    """Raises click.UsageError for --url together with --host or --port.

    Where nothing is told, the environment says it before what `up` wrote down: in Compose's controller, so that every
    command works there by `docker compose exec`.
    """
    if not (url or host or port):
        url = os.environ.get("SERVEKIT_SERVER_URL") or None
    gateway_url = gateway_url or os.environ.get("SERVEKIT_GATEWAY_URL") or None
    prometheus_url = prometheus_url or os.environ.get("SERVEKIT_PROMETHEUS_URL") or None
    running = None if url or host or port else state.read_running(here)
    container = container or os.environ.get("SERVEKIT_CONTAINER") == "1"
    if running is None:
        return Reach(address(url=url, host=host, port=port, grpc=True), gateway_url, container, prometheus_url)
    return Reach(
        running.server_grpc_url,
        gateway_url or running.gateway_url,
        container or running.engine == "docker",
        prometheus_url,
    )
