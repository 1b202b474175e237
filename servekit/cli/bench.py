"""`servekit bench`: how many requests a running server answers, and how fast, told honestly."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.address import SECONDS, address
from servekit.cli.output import print_json, say
from servekit.engine import state
from servekit.errors import ExitCode, ServekitError
from servekit.paths import bundle

if TYPE_CHECKING:
    from servekit.bench.report import Run
    from servekit.bench.session import Side
    from servekit.model_spec import ModelSpec


LOG_EVERY_S = 5.0
_LIMITS = {
    "server": "the server had all the cores it could get: that is its rate here",
    "gateway": "the gateway had most of the cores",
    "machine": "the cores were full, with programs that have no part in it, or shared among all that have",
    "nothing": "cores were idle: more clients, or more batch threads, would give more",
}


class _Numbers(click.ParamType[Any]):
    """`1,4,16`."""

    name = "numbers"

    def __init__(self, least: float) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < self.least:
            self.fail(f"{value!r}: numbers from {self.least:g}, with commas between them, are expected", param, ctx)
        return numbers


@click.command(name="bench")
@click.argument("model")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--clients", type=_Numbers(1), help="Closed loop: so many clients, such as 1,4,16.  [default: 1,16]")
@click.option("--rate", type=_Numbers(0.01), help="Open loop instead: so many requests a second, such as 50,100.")
@click.option("--seconds", type=SECONDS, default=10.0, show_default=True, help="Of load for each line of the result.")
@click.option("--warm-up", "warmup_s", type=SECONDS, default=1.0, show_default=True, help="Seconds before each round.")
@click.option("--protocol", type=click.Choice(["both", "rest", "grpc"]), default="both", show_default=True)
@click.option("--label", "labels", multiple=True, help="Ask for this label; several are compared.")
@click.option("--version", "versions", type=click.IntRange(0), multiple=True, help="Likewise a version.")
@click.option("--signature", default="", help="Signature to call.  [default: serving_default]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows or images in one request.")
@click.option("--max-error-rate", type=click.FloatRange(0, 1), default=0.01, show_default=True,
              help="No latency is told when more than this share of the requests failed.")  # fmt: skip
@click.option("--compare", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An earlier --json.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots here (.html).")
@click.option("--rest-url", help="http://HOST:PORT.  [default: the server that `up` started]")
@click.option("--grpc-url", help="grpc://HOST:PORT.  [default: likewise]")
@click.option("--timeout", "timeout_s", type=SECONDS, default=30.0, show_default=True, help="For an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    model: str, images: Sequence[Path], clients: list[float] | None, rate: list[float] | None, seconds: float,
    warmup_s: float, protocol: str, labels: Sequence[str], versions: Sequence[int], signature: str, batch: int,
    max_error_rate: float, compare: Path | None, plot: Path | None, rest_url: str | None, grpc_url: str | None,
    timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Measure MODEL on a running server, over REST and gRPC in turn, with IMAGES or random tensors of its signature.

    Latencies are of good answers only. In an open loop (--rate) they count from the moment at which a request was to
    be sent: a server that stalls cannot hide the requests that waited. A line says so when not the server but the load
    generator was at its limit.

    \b
    servekit bench imagenet export/samples/chelsea.jpg --label stable --label canary
    servekit bench half_plus_two --rate 100,500,1000 --json > before.json
    servekit bench half_plus_two --rate 100,500,1000 --compare before.json --plot bench.html
    """
    if clients and rate:
        raise click.UsageError("--clients and --rate exclude each other")
    from servekit.bench.report import compared, document, runs_of
    from servekit.bench.session import Settings, machine, measure
    from servekit.bench.traffic import Shape
    from servekit.engine.pids import pids

    before = _read(compare) if compare else None
    shapes = [Shape(rate=one) for one in rate] if rate else [Shape(clients=int(one)) for one in clients or (1, 16)]
    urls = _urls(protocol, rest_url, grpc_url)
    sides = _sides(urls, _specs(model, labels, versions, signature), images, batch, timeout_s)
    running = None if rest_url or grpc_url else state.read_running(bundle())
    watched = pids(running) if running else {}
    settings = Settings(seconds, warmup_s, timeout_s, batch, max_error_rate, watched)
    runs = measure(sides, shapes, settings, _progress(seconds, warmup_s))
    about = {
        "model": model,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"servekit {' '.join(sys.argv[1:])}",
        "machine": machine(),
        "batch": batch,
    }
    page = document(runs, about)
    if before is not None:
        page["compared"] = list(compared(runs, runs_of(before)))
    if plot:
        from servekit.atomic import write_atomically
        from servekit.bench.plot import page_of

        write_atomically(plot, page_of(page))
        say(f"plots: {plot}")
    if as_json:
        print_json(page)
    else:
        _print(runs, page, max_error_rate)
    sys.exit(ExitCode.NO if any(run.latency_ms is None for run in runs) else ExitCode.DONE)


def _urls(protocol: str, rest_url: str | None, grpc_url: str | None) -> dict[str, str]:
    urls = {}
    if protocol in ("both", "rest") and (rest_url or not grpc_url or protocol == "rest"):
        urls["REST"] = address(url=rest_url, host=None, port=None, grpc=False)
    if protocol in ("both", "grpc") and (grpc_url or not rest_url or protocol == "grpc"):
        urls["gRPC"] = address(url=grpc_url, host=None, port=None, grpc=True)
    return urls


def _specs(model: str, labels: Sequence[str], versions: Sequence[int], signature: str) -> dict[str, ModelSpec]:
    from servekit.model_spec import ModelSpec

    specs = {f"label {label}": ModelSpec(model, version_label=label, signature_name=signature) for label in labels}
    specs |= {f"version {one}": ModelSpec(model, version=one, signature_name=signature) for one in versions}
    return specs or {"": ModelSpec(model, signature_name=signature)}


def _sides(
    urls: dict[str, str], specs: dict[str, ModelSpec], images: Sequence[Path], batch: int, timeout_s: float
) -> list[Side]:
    """Each target is asked once before, so that a mistake is told in words. Raises StatusError, Unreachable."""
    from servekit.bench.payload import inputs_of, requests
    from servekit.bench.session import Side
    from servekit.client import Client
    from servekit.model_spec import DEFAULT_SIGNATURE

    sides = []
    for target, spec in specs.items():
        prepared = None
        for protocol, url in urls.items():
            with Client(url, timeout_s=timeout_s) as client:
                if prepared is None:
                    found = client.metadata(spec).signature(spec.signature_name)
                    if found is None:
                        raise ServekitError(f"{spec.name} has no signature {spec.signature_name or DEFAULT_SIGNATURE}",
                                            hint=f"servekit inspect {spec.name}")  # fmt: skip
                    inputs = inputs_of(spec.name, found, images, batch)
                    prepared = requests(spec, inputs)
                answer = client.predict(spec, inputs[0])
            valid = answer.outputs.get("valid")
            if images and valid is not None and not valid.all():
                raise ServekitError(f"{spec.name} cannot read these images", hint="servekit predict says which")
            sides.append(Side(protocol, target, url, prepared[protocol]))
    return sides


def _read(path: Path) -> Any:
    from servekit.bench.report import runs_of

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        runs_of(document)
    except (ValueError, AttributeError) as error:
        raise ServekitError(f"{path}: no result of servekit bench --json: {error}") from None
    return document


def _progress(seconds: float, warmup_s: float) -> Any:
    """On a terminal one line that changes; in a log a line every LOG_EVERY_S seconds."""
    from servekit.bench.session import ROUNDS

    live, told = sys.stderr.isatty(), -LOG_EVERY_S

    def show(title: str, elapsed: float, good: int, bad: int) -> None:
        nonlocal told
        total = seconds / ROUNDS + warmup_s
        errors = f", {bad} errors" if bad else ""
        line = f"{title}: {min(elapsed, total):.0f} of {total:.0f} s, {good} answers{errors}"
        if live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - told >= LOG_EVERY_S:
            told = time.monotonic()
            say(line)

    return show


def _print(runs: Sequence[Run], page: dict[str, Any], max_errors: float) -> None:
    from rich.console import Console
    from rich.table import Table

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    table = Table()
    for column in ("protocol", "target", "load"):
        table.add_column(column)
    gateway = any(run.gateway_cpu is not None for run in runs)
    cores = ["client", "server", *(["gateway"] if gateway else [])]
    for column in ("per second", "p50 ms", "p90", "p99", "p99.9", "errors", "sent B", *cores):
        table.add_column(column, justify="right")
    for run in runs:
        latency = run.latency_ms or {}
        load = f"{run.level:g} clients" if run.loop == "closed" else f"{run.level:g}/s"
        figures = [f"{latency[name]:.1f}" if latency else "-" for name in ("p50", "p90", "p99", "p99_9")]
        used = [run.server_cpu, run.gateway_cpu] if gateway else [run.server_cpu]
        failed = sum(run.errors.values())
        table.add_row(
            run.protocol, run.target, load, f"{run.per_second:.1f}", *figures, str(failed) if failed else "0",
            f"{run.request_bytes:.0f}", f"{run.client_cpu:.2f}",
            *("?" if cpu is None else f"{cpu:.2f}" for cpu in used),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    click.echo(f"{', '.join(cores)}: cores in use")
    for run in runs:
        name = f"{run.protocol} {run.target}".strip() + f", {run.level:g}"
        if run.client_bound:
            click.echo(f"{name}: the load generator was at its limit; the server may do better")
        elif run.bottleneck in _LIMITS:
            click.echo(f"{name}: {_LIMITS[run.bottleneck]}")
        if run.latency_ms is None:
            click.echo(f"{name}: {run.error_rate:.1%} of {run.requests} requests failed (limit {max_errors:.1%}): "
                       "no latency is told")  # fmt: skip
        for kind, count in run.errors.items():
            click.echo(f"{name}: {count} times {kind}")
    for ratio in [*page["ratios"], *page.get("compared", ())]:
        parts = [f"{key} {ratio[key]:.2f}" for key in ("per_second", "p50", "p99") if ratio[key] is not None]
        about = f"{ratio['protocol']} {ratio['target']}".strip()
        click.echo(f"{ratio['what']} ({about}, {ratio['level']:g}): {', '.join(parts)}".replace("per_second", "rate"))
