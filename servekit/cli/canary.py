"""`servekit canary`: edits of serving.yaml that start, move, promote and end a canary, and a look at how it does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from servekit.cli.address import address_options
from servekit.cli.canary_check import command as check
from servekit.cli.output import print_json, say, say_hint
from servekit.cli.reach import reach, reach_options
from servekit.errors import ExitCode, ServekitError
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from rich.console import Console

    from servekit.canary.edit import Edit
    from servekit.canary.file import Done
    from servekit.canary.snapshot import Look
    from servekit.config.models import Model
    from servekit.config.section import Finding
    from servekit.config.serving import Serving

Command = TypeVar("Command", bound=Callable[..., Any])
PERCENT = click.IntRange(0, 100)


@click.group(name="canary")
def command() -> None:
    """Give a new version a share of the requests, watch how it does, promote it or take it back.

    Every command is an edit of config/serving.yaml (comments and all else stay), which the controller brings about: the
    one that `servekit up` started, or `servekit apply`. Editing the file by hand does the same. Requests that name a
    version or a label are never touched; the others go to label stable, or by weight to label canary.
    """


command.add_command(check)


def _edits(run: Command) -> Command:
    """What all editing commands have in common."""
    options = (
        click.argument("model"),
        click.option("--apply/--no-apply", "applies", default=True, show_default=True,
                     help="Bring it about now where a server runs and no controller watches."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )  # fmt: skip
    for option in reversed(options):
        run = option(run)
    return run


@command.command()
@_edits
@click.option("--version", type=click.IntRange(min=0), required=True, help="The new version; it has to be exported.")
@click.option("--weight", type=PERCENT, help="Percent of unlabelled requests that it gets.  [default: 5]")
@click.option("--auto", is_flag=True, help="Let the analysis move the weight, promote it or roll it back.")
@click.option("--sticky", metavar="HEADER", help="Request header whose equal values stay with one version.")
@click.option("--mirror", type=PERCENT, help="Percent of stable's requests that it gets copies of.")
@click.option("--interval", metavar="DURATION", help="Between checks of the analysis, such as 30s.")
@click.option("--stable", type=click.IntRange(min=0), help="The version to compare with.  [default: the one served]")
def start(
    model: str, version: int, weight: int | None, auto: bool, sticky: str | None, mirror: int | None,
    interval: str | None, stable: int | None, applies: bool, as_json: bool,
) -> None:  # fmt: skip
    """Serve a version beside the stable one, label it canary, give it a share of the requests.

    A model without labels gets label stable for the version that it serves now; a policy that picks versions by itself
    (latest, all) is replaced by the versions that are served.
    """
    from pathlib import Path

    from servekit.canary import edit
    from servekit.config.folders import published_versions

    here = bundle()
    asked = edit.Start(version, weight, auto, sticky, mirror, interval, stable)

    def operation(serving: Serving, entry: Model) -> Edit:
        if not serving.gateway.enabled:
            raise ServekitError(
                "the gateway is off (gateway.enabled: false): nothing would give the canary its share",
                hint="set gateway: {enabled: true} in config/serving.yaml, then servekit down and servekit up",
            )
        folder = Path(entry.folder(model, here.models.absolute()))
        return edit.start(model, entry, asked, published_versions(folder) or ())

    _carry_out(
        here, model, operation, f"start version {version}", "edited", applies, as_json=as_json, auto=auto,
        forgiven=edit.mends(model),
    )  # fmt: skip


@command.command()
@_edits
@click.argument("percent", type=PERCENT)
def weight(model: str, percent: int, applies: bool, as_json: bool) -> None:
    """Give the canary another share of the unlabelled requests, in percent."""
    from servekit.canary import edit

    _carry_out(
        bundle(), model, lambda _, entry: edit.weight(model, entry, percent), f"weight {percent} %", "edited", applies,
        as_json=as_json,
    )  # fmt: skip


@command.command()
@_edits
def pause(model: str, applies: bool, as_json: bool) -> None:
    """Keep the weight where it is; the analysis stops until `servekit canary resume`."""
    from servekit.canary import edit

    _carry_out(bundle(), model, lambda _, entry: edit.pause(model, entry), "pause", "edited", applies, as_json=as_json)


@command.command()
@_edits
def resume(model: str, applies: bool, as_json: bool) -> None:
    """Let the analysis go on after `servekit canary pause`."""
    from servekit.canary import edit

    _carry_out(
        bundle(), model, lambda _, entry: edit.resume(model, entry), "resume", "edited", applies, as_json=as_json
    )


@command.command()
@_edits
@click.option("--keep-old", is_flag=True, help="Go on serving the old version, by its number.")
def promote(model: str, keep_old: bool, applies: bool, as_json: bool) -> None:
    """Make the canary's version the stable one for everybody, and retire the old one.

    Label stable moves first, so that no request goes back to the old version on the way.
    """
    from servekit.canary import edit

    _carry_out(
        bundle(), model, lambda _, entry: edit.promote(model, entry, keep_old=keep_old), "promote", "promoted",
        applies, as_json=as_json,
    )  # fmt: skip


@command.command()
@_edits
@click.option("--reason", default="", help="For the history.")
def abort(model: str, reason: str, applies: bool, as_json: bool) -> None:
    """Give everything to stable again at once, then take the canary's label and version away."""
    from servekit.canary import edit

    _carry_out(
        bundle(), model, lambda _, entry: edit.abort(model, entry), "abort", "aborted", applies, as_json=as_json,
        reason=reason,
    )  # fmt: skip


@command.command()
@click.argument("model", required=False)
@click.option("--watch", is_flag=True, help="Stay, and show it again whenever something changes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document (with --watch: one a line).")
@reach_options
@address_options
def status(
    model: str | None, watch: bool, as_json: bool, gateway_url: str | None, prometheus_url: str | None,
    url: str | None, host: str | None, port: int | None, timeout_s: float,
) -> None:  # fmt: skip
    """Labels, versions, weights, the analysis' last verdict, and what was done lately.

    Exit status 0 when server and gateway do what serving.yaml says, 1 otherwise.
    """
    from servekit.canary.snapshot import look
    from servekit.client import Client
    from servekit.config.load import load

    here = bundle()
    serving = load(here.serving_yaml)
    if model is not None and model not in serving.models:
        there = ", ".join(serving.models)
        raise ServekitError(f"no model {model} in serving.yaml (there are: {there})", hint="servekit canary status")
    where = reach(
        here, url=url, host=host, port=port, gateway_url=gateway_url, prometheus_url=prometheus_url
    )  # fmt: skip
    with Client(where.server_url, timeout_s=timeout_s) as client:

        def now() -> Look:
            return look(
                here, load(here.serving_yaml), client, where.gateway_url, container=where.container, only=model
            )  # fmt: skip

        if watch:
            _stay(now, as_json=as_json)
            return
        seen = now()
    if as_json:
        print_json(seen.document())
    else:
        from rich.console import Console

        _show(Console(), seen)
    sys.exit(ExitCode.DONE if _is_as_wanted(seen) else ExitCode.NO)


@command.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def history(model: str | None, as_json: bool) -> None:
    """What was done to labels, versions and weights so far, by whom it may be, and why; of one model, or of all."""
    from servekit.cli.apply import show_history

    show_history(bundle(), model, as_json=as_json)


def _carry_out(
    here: Bundle, name: str, operation: Callable[[Serving, Model], Edit], what: str, result: str, applies: bool, *,
    as_json: bool, reason: str = "", auto: bool = False, forgiven: Callable[[Finding], bool] = lambda _: False,
) -> None:  # fmt: skip
    """The edit, its place in the history, and the steps that follow from it where nobody else takes them."""
    from servekit.canary import file
    from servekit.rollout import history
    from servekit.rollout.at_work import at_work
    from servekit.rollout.history import Book, Event

    done = file.change(here, name, operation, forgiven)
    changed = done.before != done.after
    if changed:
        told = Event(history.now(), name, f"canary {what}", result, reason)
        Book(here).enter(lambda kept: kept.told(told))
    watcher = at_work(here)
    watched = watcher is not None and watcher.watches
    if as_json:
        print_json(_document(done, watched=watched))
    else:
        _print_edit(done)
    converged = True
    if watched:
        say("the controller at work here brings it about: servekit canary status --watch")
    elif applies and _server_runs(here):
        from servekit.cli.apply import once

        converged = once(here, reach(here))
    else:
        say("no server of `servekit up` runs here: the next servekit up serves it so, on another server servekit apply "
            "--url grpc://HOST:PORT" if applies else "servekit apply brings it about")  # fmt: skip
    if auto and not watched:
        say("warning: nobody watches, and the analysis needs that")
        say_hint("servekit apply --watch")
    sys.exit(ExitCode.DONE if converged else ExitCode.NO)


def _server_runs(here: Bundle) -> bool:
    from servekit.engine import state

    return state.read_running(here) is not None


def _print_edit(done: Done) -> None:
    if done.before == done.after:
        say(f"{done.file}: nothing to change, it says so already")
    for line in done.diff():
        click.echo(line.rstrip("\r\n"))
    for note in done.notes:
        say(f"note: {note}")


def _document(done: Done, *, watched: bool) -> dict[str, Any]:
    return {
        "file": done.file,
        "changed": done.before != done.after,
        "diff": "".join(done.diff()),
        "notes": list(done.notes),
        "watched": watched,
    }


def _show(console: Console, look: Look) -> None:
    from servekit.cli.canary_view import below, rendered

    console.print(rendered(look))
    for line in below(look):
        console.print(line, soft_wrap=True)


def _is_as_wanted(look: Look) -> bool:
    labels = all(label.desired == label.actual for model in look.models for label in model.labels)
    weights = all(model.weight_actual in (None, model.weight_desired) for model in look.models)
    return labels and weights and not look.problems


def _stay(now: Callable[[], Look], *, as_json: bool) -> None:
    """On a terminal in place; otherwise one more whenever something but the clock changed."""
    from rich.console import Console, Group
    from rich.live import Live

    from servekit.cli.canary_view import below, rendered

    console = Console()
    if console.is_terminal and not as_json:
        seen = now()
        with Live(Group(rendered(seen), *below(seen)), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                seen = now()
                live.update(Group(rendered(seen), *below(seen)), refresh=True)
    before: Any = None
    while True:
        seen = now()
        document = seen.document()
        key = {**document, "models": [{**model, "next_check_seconds": None} for model in document["models"]]}
        if key != before:
            before = key
            if as_json:
                import orjson

                click.echo(orjson.dumps(document).decode())
            else:
                _show(console, seen)
        time.sleep(1.0)
