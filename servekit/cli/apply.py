"""`servekit apply`: a running server brought to what serving.yaml says, in the order that TF Serving accepts."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from servekit.cli import awaited
from servekit.cli.address import SECONDS, address_options
from servekit.cli.output import print_json, say, say_hint
from servekit.cli.reach import Reach, reach, reach_options
from servekit.errors import EngineError, ExitCode, Unreachable
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.client import Client
    from servekit.config.serving import Serving
    from servekit.rollout.controller import Settings
    from servekit.rollout.history import Event
    from servekit.rollout.plan import Change, Refused, Reroute, Step, Steps


@click.command(name="apply")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan, write nothing; exit status 1 if there is something to do."
)
@click.option("--watch", is_flag=True, help="Stay, and apply every change of serving.yaml and of the model folders.")
@click.option("--history", "only_history", is_flag=True, help="Print what was done so far, and the step under way.")
@click.option(
    "--patience", "load_s", type=SECONDS, default=300.0, show_default=True, metavar="SECONDS",
    help="For a version to load or unload.",
)  # fmt: skip
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="With --watch: metrics for Prometheus.")
@click.option("--metrics-bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="For --metrics-port.")
@click.option("--with-server", is_flag=True, help="With --watch: end when the server that `up` started ends.")
@click.option("--container", is_flag=True,
              help="The server reads config/rendered/container.  [default: if `up` used Docker]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout (with --watch: one a line).")
@reach_options
@address_options
def command(
    dry_run: bool, watch: bool, only_history: bool, load_s: float, metrics_port: int | None, metrics_bind: str,
    with_server: bool, container: bool, as_json: bool, gateway_url: str | None, prometheus_url: str | None,
    url: str | None, host: str | None, port: int | None, timeout_s: float,
) -> None:  # fmt: skip
    """Bring the running server to what config/serving.yaml says, without losing a request.

    TF Serving refuses an edit that adds a version and moves a label to it, and may drop a version before its successor
    is loaded. So versions are added first, labels moved second and versions retired last, each in a write of
    models.config of its own, proven on the server before the next. With the gateway, the canary's share of requests is
    lowered before that and raised after it. Interrupted at any step, the same command goes on. A version that does not
    load is taken out again, and the labels stay where they are.

    With --watch it also is what makes `auto: true` of a canary work: it measures, moves the weight, promotes or rolls
    back, by edits of serving.yaml.

    \b
    Exit status 0: the server serves what serving.yaml says. 1: a step was refused or failed. 2: serving.yaml is wrong.
    """
    if dry_run and watch:
        raise click.UsageError("--dry-run and --watch exclude each other")
    if (metrics_port or with_server) and not watch:
        raise click.UsageError("--metrics-port and --with-server need --watch")
    here = bundle()
    if only_history:
        show_history(here, as_json=as_json)
        return

    from servekit.client import Client

    where = reach(
        here, url=url, host=host, port=port, gateway_url=gateway_url, prometheus_url=prometheus_url,
        container=container,
    )  # fmt: skip
    settings = _settings(where, load_s)
    with Client(where.server_url, timeout_s=timeout_s) as client:
        if dry_run:
            sys.exit(ExitCode.NO if _dry_run(here, client, settings, as_json=as_json) else ExitCode.DONE)
        if watch:
            _watch(here, client, settings, where, metrics_port, metrics_bind, with_server, as_json=as_json)
        else:
            sys.exit(ExitCode.DONE if _once(here, client, settings, as_json=as_json) else ExitCode.NO)


def once(here: Bundle, where: Reach, *, load_s: float = 300.0) -> bool:
    """What `servekit apply` does, for other commands. False when a step was refused or failed."""
    from servekit.client import Client

    with Client(where.server_url) as client:
        return _once(here, client, _settings(where, load_s), as_json=False)


def _settings(where: Reach, load_s: float) -> Settings:
    from servekit.rollout.controller import Settings

    return Settings(load_s, where.container, where.gateway_url)


def _once(here: Bundle, client: Client, settings: Settings, *, as_json: bool) -> bool:
    from servekit.rollout.at_work import only_one
    from servekit.rollout.controller import Controller
    from servekit.rollout.watch import desired

    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if not as_json:
            tell(event)

    serving = desired(here)
    _refuse_blind(here, settings)
    _warn_without_gateway(serving, settings)
    controller = Controller(here, client, listen, settings)
    try:
        if awaited.is_watched(here):
            converged = awaited.wait(here, controller, serving, settings.load_s)
            if as_json:
                print_json({"converged": converged, "events": []})
            return converged
        with only_one(here):
            wrong = controller.converge(serving)
    except Unreachable as error:
        raise _nobody(error) from None
    if as_json:
        done = [dataclasses.asdict(event) for event in events if event.result != "started"]
        print_json({"converged": not wrong, "events": done})
    elif not events:
        say("nothing to do: the server serves what serving.yaml says")
    return not wrong


def _dry_run(here: Bundle, client: Client, settings: Settings, *, as_json: bool) -> bool:
    """True when there is something to do."""
    from servekit.rollout.controller import Controller
    from servekit.rollout.watch import desired

    try:
        plans = list(Controller(here, client, lambda _: None, settings).plan(desired(here)))
    except Unreachable as error:
        raise _nobody(error) from None
    if as_json:
        print_json({"models": [_plan_document(change, steps) for change, steps in plans]})
    elif not any(steps for _, steps in plans):
        say("nothing to do: the server serves what serving.yaml says")
    else:
        for change, steps in plans:
            _print_plan(change, steps)
    return any(bool(steps) for _, steps in plans)


def _print_plan(change: Change, steps: Steps | Refused) -> None:
    if isinstance(steps, Exception):
        click.echo(f"{change.name}: refused")
        say(f"error: {steps}")
        if steps.hint:
            say_hint(steps.hint)
        return
    for number, step in enumerate(steps, 1):
        click.echo(f"{change.name} {number}. {step.why}")
        for proof in step.proofs:
            if not proof.holds(change.seen):
                click.echo(f"     until {proof}")


def _plan_document(change: Change, steps: Steps | Refused) -> dict[str, Any]:
    if isinstance(steps, Exception):
        return {"model": change.name, "refused": str(steps), "hint": steps.hint, "steps": []}
    listed = [{"why": step.why, **_write(step), "proofs": [str(proof) for proof in step.proofs]} for step in steps]
    return {"model": change.name, "refused": None, "hint": None, "steps": listed}


def _write(step: Step | Reroute) -> dict[str, Any]:
    """`entry` of models.config, or the gateway's `split`; None takes it away."""
    from servekit.rollout.plan import Step

    if isinstance(step, Step):
        return {"entry": step.entry.model_dump(mode="json", exclude={"canary"}) if step.entry else None}
    return {"split": dataclasses.asdict(step.split) if step.split else None}


def _refuse_blind(here: Bundle, settings: Settings) -> None:
    """The stack's gateway is asked inside the stack alone; it may give out the very label that a step takes away."""
    from servekit.gateway.files import read_splits

    if not settings.container or settings.gateway_url is not None or awaited.is_watched(here):
        return
    if any(split.weight or split.mirror for split in read_splits(here, container=True).values()):
        raise EngineError(
            "a canary gets requests, and the stack's gateway cannot be asked from here",
            hint="docker compose up --detach controller",
        )


def _warn_without_gateway(serving: Serving, settings: Settings) -> None:
    names = [name for name, model in serving.models.items() if model.canary and model.canary.weight]
    if names and settings.gateway_url is None:
        say(f"warning: {', '.join(names)}: no gateway is known here, so canary.weight is nobody's; --gateway-url URL")


def _watch(
    here: Bundle, client: Client, settings: Settings, where: Reach, port: int | None, bind: str, with_server: bool,
    *, as_json: bool,
) -> None:  # fmt: skip
    from servekit.analysis import annotate
    from servekit.analysis.measure import Sources
    from servekit.canary.loop import Analyses
    from servekit.engine import state
    from servekit.rollout.at_work import only_one
    from servekit.rollout.controller import Controller
    from servekit.rollout.metrics import Metrics
    from servekit.rollout.watch import Watch

    metrics, stop = Metrics(), threading.Event()

    def listen(event: Event) -> None:
        metrics.event(event)
        if as_json:
            _print_line(event)
        else:
            tell(event)

    def end(_number: int, _frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    server = state.read_running(here) if with_server else None
    metrics_url = f"http://{bind}:{port}/metrics" if port else ""
    patience_s = 60.0 if with_server else 0.0  # one that is at work ends by itself
    with only_one(here, watches=True, metrics=metrics_url, with_server=with_server, patience_s=patience_s):
        if port:
            try:
                metrics.serve(port, bind)
            except OSError as error:
                raise EngineError(f"{bind}:{port}: {error.strerror}", hint="choose another --metrics-port") from None
            say(f"metrics  http://{bind}:{port}/metrics")
        say(f"watching {here.serving_yaml} and {here.models}; Ctrl-C ends it, the server stays")
        sources = Sources(where.server_url, where.gateway_url, where.prometheus_url)
        analyses = Analyses(here, sources, metrics, say, annotate.from_environment())
        watch = Watch(here, Controller(here, client, listen, settings), metrics, say, analyses)
        try:
            watch.run(stop, (lambda: server is not None and server.is_running()) if with_server else lambda: True)
        except KeyboardInterrupt:
            sys.exit(ExitCode.DONE if stop.is_set() else ExitCode.INTERRUPTED)


def tell(event: Event) -> None:
    """A step, when it begins and when it ends, and what commands and analysis did, for the person at the terminal."""
    if event.result == "started":
        say(f"  {event.model}: {event.step} ...")
    elif event.result == "done":
        say(f"  {event.model}: {event.step}: {event.seconds:.1f} s")
    elif event.result == "superseded":
        say(f"  {event.model}: {event.step}: {event.reason}")
    else:
        reason = f": {event.reason}" if event.reason else ""
        start = "error: " if event.result in ("failed", "refused", "waiting") else "  "
        say(f"{start}{event.model}: {event.step}: {event.result}{reason}")


def _print_line(event: Event) -> None:
    import orjson

    sys.stdout.buffer.write(orjson.dumps(dataclasses.asdict(event)) + b"\n")
    sys.stdout.buffer.flush()


def show_history(here: Bundle, model: str | None = None, *, as_json: bool) -> None:
    """Of one model, also one that is gone from serving.yaml, or of all."""
    from servekit.rollout import history

    kept = history.read(here)
    if model is not None:
        kept = kept.of(model)
    if as_json:
        print_json(
            {
                "phase": dict(kept.phase),
                "progress": {name: progress.document() for name, progress in kept.progress.items()},
                "events": [dataclasses.asdict(event) for event in kept.events],
            }
        )
        return
    for event in kept.events:
        reason = f": {event.reason}" if event.reason else ""
        seconds = f" ({event.seconds:.1f} s)" if event.seconds else ""
        click.echo(f"{event.at} {event.model}: {event.step}: {event.result}{seconds}{reason}")
    for name, step in kept.phase.items():
        click.echo(f"{name}: {step}: under way, or interrupted")
    if not kept.events and not kept.phase:
        say(f"nothing was done to a model {model} here" if model else "nothing was applied here yet")


def _nobody(error: Unreachable) -> EngineError:
    return EngineError(f"no server to bring up to date: {error}", hint="servekit up renders everything and starts one")
