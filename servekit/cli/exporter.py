"""`servekit exporter`: metrics beside a tensorflow_model_server, for Prometheus."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from servekit.cli.address import SECONDS, address
from servekit.cli.output import say
from servekit.errors import EngineError, ExitCode
from servekit.paths import bundle

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Bytes, as Compose writes them: 8G, 512m, 1.5gb."""
    if value is None:
        return None
    text = value.strip().lower()
    number = text.rstrip("bkmgt")
    try:
        size = int(float(number) * _UNITS[text[len(number) :].removesuffix("b")])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{value!r} is no size such as 8G or 512M")
    return size


def _listen(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{value!r} is no HOST:PORT such as 127.0.0.1:9500")
    return host.strip("[]"), int(port)


@click.command(name="exporter")
@click.option("--models-config", type=click.Path(path_type=Path), help="[default: config/rendered/models.config]")
@click.option(
    "--listen",
    callback=_listen,
    default="127.0.0.1:9500",
    show_default=True,
    metavar="HOST:PORT",
    help="Serve /metrics here.",
)
@click.option(
    "--memory-limit", callback=_size, metavar="SIZE", help="Of the server, such as 8G.  [default: the machine's memory]"
)
@click.option(
    "--proc",
    type=click.Path(path_type=Path),
    default="/proc",
    show_default=True,
    help="Where the server's process is described; copies of its files, if young, will do.",
)
@click.option("--url", help="grpc://HOST:PORT of the server, instead of --host and --port.")
@click.option("--host", help="Server's name or IP address.  [default: the server that `up` started]")
@click.option("--port", type=click.IntRange(1, 65535), help="Its gRPC port.  [default: 8500]")
@click.option(
    "--timeout", "timeout_s", type=SECONDS, default=5.0, show_default=True, metavar="SECONDS", help="Of a call."
)
def command(
    models_config: Path | None,
    listen: tuple[str, int],
    memory_limit: int | None,
    proc: Path,
    url: str | None,
    host: str | None,
    port: int | None,
    timeout_s: float,
) -> None:
    """Tell Prometheus what a tensorflow_model_server does not: states of versions, labels, memory.

    Asks the server at each scrape, over gRPC, whose status calls are in no metric. Memory is told where the server's
    process can be seen: on the same machine, or with --proc, for which the health check of docker-compose.yaml copies.
    Runs until Ctrl-C or SIGTERM.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from servekit.client import Client
    from servekit.monitoring.exporter import ServerCollector
    from servekit.monitoring.process import memory_limit_bytes

    where = address(url=url, host=host, port=port, grpc=True)
    if not where.startswith("grpc://"):
        raise click.UsageError("--url should begin with grpc://: REST's status calls are counted as requests")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = threading.Event()
    with Client(where, timeout_s=timeout_s) as client:
        limit = memory_limit_bytes() if memory_limit is None else memory_limit
        registry = CollectorRegistry()
        file = models_config or bundle().rendered / "models.config"
        registry.register(ServerCollector(client, file, memory_limit_bytes=limit, proc=proc))
        try:
            server, thread = start_http_server(listen[1], addr=listen[0], registry=registry)
        except OSError as error:
            raise EngineError(
                f"{listen[0]}:{listen[1]}: {error.strerror}", hint="another address: --listen 127.0.0.1:9501"
            ) from None
        say(f"metrics of {where}: http://{listen[0]}:{listen[1]}/metrics")

        def stop(_number: int, _frame: FrameType | None) -> None:
            stopped.set()

        signal.signal(signal.SIGTERM, stop)
        try:
            while not stopped.wait(0.5):  # awake now and then: a signal may be another thread's
                pass
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
    sys.exit(ExitCode.DONE)
