"""`servekit tune`: settings for this machine and these requests, found by measuring, written into serving.yaml."""

from __future__ import annotations

import difflib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.interrupts import interrupt_on
from servekit.cli.output import print_json, say, say_hint
from servekit.errors import ExitCode
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.choose import Engine
    from servekit.tune.inputs import Asked
    from servekit.tune.run import Goal, Result


class _Duration(click.ParamType[Any]):
    """`200ms`, `5m`; in seconds."""

    name = "duration"
    _units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s|m|h)", str(value).strip())
        seconds = float(found[1]) * self._units[found[2]] if found else 0.0
        if seconds <= 0:
            self.fail(f"{value!r}: a duration such as 200ms, 1.5s, 5m or 1h is expected", param, ctx)
        return seconds


DURATION = _Duration()
OTHERS_CPU = 0.3
"""Cores: where other programs use more, a duel may be lost by bad luck."""


@click.command(name="tune")
@click.argument("model")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--slo-p99", "slo_s", type=DURATION, metavar="DURATION", help="99 of 100 answers within this, as 200ms.")
@click.option("--clients", type=click.IntRange(1, 1024), default=16, show_default=True,
              help="Load to tune for: so many clients, each with one request at a time.")  # fmt: skip
@click.option("--budget", "budget_s", type=DURATION, default="5m", show_default=True, metavar="DURATION",
              help="Time for all of it, interrupted runs included.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["grpc", "rest"]), default="grpc", show_default=True)
@click.option("--label", help="Tune the version with this label.  [default: the one unlabelled requests get]")
@click.option("--version", type=click.IntRange(0), help="Likewise by number.")
@click.option("--signature", default="", help="Signature to call.  [default: serving_default]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows or images in one request.")
@click.option("--engine", default="auto", show_default=True, type=click.Choice(["auto", "native", "embedded"]),
              help="Which server to start for each setting.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Measure and tell, but leave serving.yaml as it is.")
@click.option("--fresh", is_flag=True, help="Forget what an earlier run measured.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    model: str, images: Sequence[Path], slo_s: float | None, clients: int, budget_s: float, protocol: str,
    label: str | None, version: int | None, signature: str, batch: int, engine: str, dry_run: bool, fresh: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Find settings for MODEL on this machine by measuring, and write them into config/serving.yaml.

    Batching, batch threads, session threads and request threads are changed one after the other; each change runs on a
    server of its own, on free ports, and takes turns with the best setting so far. What looks better in the end is
    confirmed in pairs against what was there and against TensorFlow Serving's own defaults. A server that runs already
    is left alone, but load on it disturbs the figures.

    IMAGES should be like your users'. Without any, random tensors of the signature are sent, or the photographs in
    export/samples to a model of images. Ctrl-C loses nothing: the same command goes on where it was. Exit status 1: the
    objective is not kept even with one client.

    \b
    servekit tune imagenet --slo-p99 200ms
    servekit tune imagenet photos/*.jpg --clients 4 --budget 15m --dry-run
    """
    if label is not None and version is not None:
        raise click.UsageError("--label and --version exclude each other")
    from servekit.config.load import load, read_text
    from servekit.engine import state
    from servekit.engine.choose import choose, probes
    from servekit.tune.inputs import Asked, version_of
    from servekit.tune.run import Goal

    here = bundle()
    before = read_text(here.serving_yaml)
    serving = load(here.serving_yaml)
    number = version_of(serving, here, model, label=label, version=version)
    chosen, why = choose(engine, probes())
    say(why)
    if running := state.read_running(here):
        say(f"a server runs here ({running.where}): it is left alone, but load on it disturbs the figures")
    asked = Asked(model, number, signature, "gRPC" if protocol == "grpc" else "REST", batch, tuple(images))
    goal = Goal(clients, None if slo_s is None else slo_s * 1000, budget_s)
    interrupt_on(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        result = _tune(here, serving, chosen, asked, goal, fresh=fresh)
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        raise
    found = _told(result, asked, goal, chosen)
    report = _write_report(here, model, found)
    if result.changes:
        _apply(here, before, result, found, dry_run=dry_run)
    if as_json:
        print_json(found)
    else:
        _print(result, found, goal)
    say(f"report: {report}")
    met = goal.slo_p99_ms is None or result.clients_within(goal.slo_p99_ms) > 0
    sys.exit(ExitCode.DONE if met else ExitCode.NO)


def _tune(here: Bundle, serving: Serving, engine: Engine, asked: Asked, goal: Goal, *, fresh: bool) -> Result:
    from servekit.bench.session import machine
    from servekit.tune.arena import Arena
    from servekit.tune.inputs import alone, identity, preparing
    from servekit.tune.journal import Journal
    from servekit.tune.run import Tuner
    from servekit.tune.setting import setting_of
    from servekit.tune.space import axes

    folder = here.state / "tune"
    inputs = identity(asked, serving, here, engine.program, goal.clients, goal.slo_p99_ms)
    journal = Journal(folder / f"{asked.model}.journal", inputs, fresh=fresh)
    if journal.known:
        say(f"{journal.known} measurements of an earlier run are used ({journal.spent_s:.0f} s); --fresh forgets them")
    tell = _clock(goal.budget_s, lambda: journal.spent_s)
    cores = serving.server.cpus if serving.server.cpus != "auto" else int(str(machine()["cores"]))
    single = alone(serving, asked.model, asked.version)
    with Arena(single, engine, here, folder / f"{asked.model}.servers", preparing(asked, here, tell)) as arena:
        return Tuner(arena, journal, goal, tell).run(setting_of(serving), axes(serving, cores, goal.clients))


def _clock(budget_s: float, spent_s: Callable[[], float]) -> Callable[[str], None]:
    """Each line with the time that has passed; the journal knows it of earlier runs, too."""
    began, earlier = time.monotonic(), spent_s()

    def tell(line: str) -> None:
        elapsed = earlier + time.monotonic() - began
        say(f"[{elapsed:4.0f} of {budget_s:.0f} s] {line}")

    return tell


def _told(result: Result, asked: Asked, goal: Goal, engine: Engine) -> dict[str, Any]:
    from servekit.bench.session import machine
    from servekit.tune.page import document

    about = {
        "model": asked.model,
        "version": asked.version,
        "protocol": asked.protocol,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"servekit {' '.join(sys.argv[1:])}",
        "engine": engine.name,
        "machine": machine(),
        "goal": {"clients": goal.clients, "slo_p99_ms": goal.slo_p99_ms, "budget_s": goal.budget_s},
    }
    return document(result, about)


def _write_report(here: Bundle, model: str, found: dict[str, Any]) -> Path:
    from servekit.atomic import write_all_atomically
    from servekit.tune.page import page_of

    path = here.state / "tune" / f"{model}.html"
    write_all_atomically({path: page_of(found), path.with_suffix(".json"): json.dumps(found, indent=1) + "\n"})
    return path


def _apply(here: Bundle, before: str, result: Result, found: dict[str, Any], *, dry_run: bool) -> None:
    from servekit.config.load import shown_path
    from servekit.tune.page import conclusion
    from servekit.tune.write import rewritten, write

    machine = found["machine"]
    evidence = [
        f"{found['command']}, {found['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, {found['engine']}:",
        conclusion(found),
    ]
    path = here.serving_yaml
    if dry_run:
        after = rewritten(before, shown_path(path), result.changes, evidence)
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "now", "tuned", n=1)
        say("".join(lines).rstrip())
        return
    write(path, result.changes, evidence, before=before)
    say(f"{shown_path(path)} changed; a running server takes it up when it is started again")
    say_hint("servekit down; servekit up --detach")


def _print(result: Result, found: dict[str, Any], goal: Goal) -> None:
    from rich.console import Console
    from rich.table import Table

    from servekit.tune.page import conclusion

    table = Table(title=f"{goal.clients} clients, in turn")
    table.add_column("setting")
    for column in ("per second", "p50 ms", "p99 ms", "CPU ms an answer", "winner's ratio"):
        table.add_column(column, justify="right")
    names = {"unbatched": "TF Serving's own, unbatched", "current": "what is there", "winner": "winner"}
    for key, name in names.items():
        one = result.figures[key]
        cells = [f"{one.per_second:.1f}", *("-" if value is None else f"{value:.1f}" for value in
                 (one.p50_ms, one.p99_ms, one.cpu_ms))]  # fmt: skip
        table.add_row(name, *cells, f"{result.ratio(key):.2f}" if key in result.ratios else "1.00")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    click.echo(conclusion(found))
    if not result.complete:
        click.echo("the budget ended before the search did: the same command with a larger --budget goes on")
    if (others := max(one.others_cpu for one in result.figures.values())) > OTHERS_CPU:
        click.echo(f"other programs used {others:.1f} cores meanwhile: on a calm machine the figures may be others")
    if any(one.client_bound for one in result.figures.values()):
        click.echo("the load generator was at its limit: the server may do better")
    if goal.slo_p99_ms is not None:
        within = result.clients_within(goal.slo_p99_ms)
        loads = ", ".join(str(one.clients) for one in result.levels if one.name == result.stays)
        kept = f"up to {within} clients" if within else "not even with one client"
        click.echo(f"p99 within {goal.slo_p99_ms:g} ms: {kept} (of {loads} tried)")
