"""`servekit canary status` on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from servekit.canary.snapshot import Look, ModelLook

_COLOURS = {"pass": "green", "fail": "red", "no data": "yellow"}
_RESULTS = {"failed": "red", "rolled back": "red", "refused": "red", "aborted": "yellow", "waiting": "yellow",
            "promoted": "green"}  # fmt: skip


def rendered(look: Look) -> RenderableType:
    parts: list[RenderableType] = []
    for model in look.models:
        parts += [_model(model), ""]
    return Group(*parts)


def below(look: Look) -> list[Text]:
    """Lines about all models: who watches, what is wrong, what to type. To be printed whole, for copying."""
    who = "a controller watches serving.yaml" if look.controller and look.controller.watches else (
        "a `servekit apply` is at work" if look.controller else "no controller watches: `servekit apply` after an edit"
    )  # fmt: skip
    lines = [Text(line, style="dim") for line in (who, *look.notes)]
    lines += [Text(f"problem: {problem}", style="red") for problem in look.problems]
    return lines + [Text(f"hint: {hint}") for hint in look.hints]


def _model(model: ModelLook) -> RenderableType:
    head = Text.assemble((model.name, "bold"), f"  {_phase(model)}")
    if model.step:
        head.append(f"  now: {model.step}", style="cyan")
    table = Table()
    for column in ("label", "version", "state", "share of unlabelled requests"):
        table.add_column(column)
    for label in model.labels:
        actual = "no answer" if label.actual is None else str(label.actual)
        version = actual if label.actual == label.desired else f"{actual} (wanted: {_number(label.desired)})"
        state = model.states.get(label.actual, "") if label.actual is not None else ""
        table.add_row(label.name, version, state, _share(model, label.name))
    for number in sorted(set(model.states) - {label.actual for label in model.labels}):
        if model.states[number] != "END":
            table.add_row("", str(number), model.states[number], "")
    return Group(head, table, *_analysis(model), *_events(model))


def _phase(model: ModelLook) -> str:
    if model.phase == "none":
        return "no canary"
    if model.phase == "manual":
        return "canary, moved by hand"
    if model.phase == "paused":
        return "canary, analysis paused"
    return f"canary, analysed up to {model.max_weight} %, then promoted"


def _share(model: ModelLook, label: str) -> str:
    if label not in ("stable", "canary") or (model.phase == "none" and label == "canary"):
        return ""
    wanted = model.weight_desired if label == "canary" else 100 - model.weight_desired
    if model.weight_actual is None:
        return f"{wanted} % wanted, not known"
    actual = model.weight_actual if label == "canary" else 100 - model.weight_actual
    share = f"{actual} %" if actual == wanted else f"{actual} % (wanted: {wanted} %)"
    return f"{share}, and copies of {model.mirror} %" if label == "canary" and model.mirror else share


def _number(version: int | None) -> str:
    return "none" if version is None else str(version)


def _analysis(model: ModelLook) -> list[RenderableType]:
    if model.progress is None:
        return []
    due = "" if model.next_check_s is None else f", next check in {model.next_check_s:.0f} s"
    lines: list[RenderableType] = [Text(f"failed checks {model.progress.failed} of {model.threshold}{due}")]
    verdict = model.progress.verdict
    for check in verdict.checks if verdict else ():
        lines.append(Text.assemble("  ", (f"{check.result:8}", _COLOURS[check.result]), str(check)))
    return lines


def _events(model: ModelLook) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for event in model.events:
        reason = f": {event.reason}" if event.reason else ""
        style = _RESULTS.get(event.result, "")
        clock = event.at[11:19]
        lines.append(Text.assemble((f"  {clock} ", "dim"), f"{event.step}: ", (event.result, style), reason))
    return lines
