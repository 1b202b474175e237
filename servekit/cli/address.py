"""Which server a client command talks to: --url, or --host and --port, or the one that `up` started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from servekit.engine import state
from servekit.paths import bundle

SECONDS = click.FloatRange(min=0, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


def address_options(command: Command) -> Command:
    """Adds --url, --host, --port and --timeout."""
    for option in (
        click.option(
            "--timeout",
            "timeout_s",
            type=SECONDS,
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="Give up after.",
        ),
        click.option("--port", type=click.IntRange(1, 65535), help="Of the protocol in use; 8500 gRPC, 8501 REST."),
        click.option("--host", help="Server's name or IP address.  [default: the server that `up` started]"),
        click.option("--url", help="http://HOST:PORT or grpc://HOST:PORT, instead of --host and --port."),
    ):
        command = option(command)
    return command


def address(*, url: str | None, host: str | None, port: int | None, grpc: bool) -> str:
    """Raises click.UsageError for --url together with --host or --port."""
    if url:
        if host or port:
            raise click.UsageError("--url already says host and port")
        return url
    running = None if host else state.read_running(bundle())
    if port is None and running:
        port = running.grpc_port if grpc else running.rest_port
    host = host or (running.host if running else "127.0.0.1")
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"grpc://{host}:{port or state.GRPC_PORT}" if grpc else f"http://{host}:{port or state.REST_PORT}"
