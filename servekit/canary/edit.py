"""What `servekit canary` and the automatic analysis do to serving.yaml: one model's entry before and after. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from servekit.canary.rewrite import transfer
from servekit.config.canary import Canary
from servekit.config.folders import served_versions
from servekit.config.load import typed
from servekit.config.models import NEEDS_LABEL, Model, Specific
from servekit.config.section import Finding, KeyPath
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.errors import ConfigError, ServekitError

STABLE, CANARY = "stable", "canary"
FIRST_WEIGHT = 5
"""Percent, where `start` is told none."""

_OF_ONE_CANARY = ("weight", "mirror", "auto", "paused")
"""Settings that go with the canary; `analysis` and `sticky` stay for the next one."""


class CannotEdit(ServekitError):
    """What was asked makes no sense for the model as it is. `path`: where in serving.yaml one sees why."""

    def __init__(self, path: KeyPath, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


@dataclass(frozen=True, slots=True)
class Edit:
    """The model's entry as it is to be, and what people should be told beyond the difference."""

    model: Model
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """What `servekit canary start` was told; None: as it is, or the default."""

    version: int
    weight: int | None = None
    auto: bool = False
    sticky: str | None = None
    mirror: int | None = None
    interval: str | None = None
    stable: int | None = None


def start(name: str, model: Model, asked: Start, published: Iterable[int]) -> Edit:
    """Serves the version, labels it canary, and gives it a weight; one that runs already gets what else was asked.
    Raises CannotEdit."""
    on_disk = set(published)
    _may_start(name, model, asked, on_disk)
    served = served_versions(model, on_disk)
    stable, notes = _stable(name, model, asked, served)
    versions: Any = model.versions
    wanted = {*served, stable, asked.version}
    if not isinstance(versions, Specific):
        versions = Specific(specific=tuple(sorted(wanted)))
        notes.append(f"versions: {model.versions} becomes {versions}, so that nothing comes or goes by itself")
    elif missing := sorted({stable, asked.version} - set(versions.specific)):
        versions = Specific(specific=(*versions.specific, *missing))
    runs = is_running(model)
    settings = {key: value for key, value in _settings(model).items() if runs or key != "paused"}
    known = settings.get("weight", 0)
    settings["weight"] = asked.weight if asked.weight is not None else known if runs else known or FIRST_WEIGHT
    if asked.auto:
        settings["auto"] = True
    if asked.sticky is not None:
        settings["sticky"] = asked.sticky
    if asked.mirror is not None:
        settings["mirror"] = asked.mirror
    if asked.interval is not None:
        settings["analysis"] = {**settings.get("analysis", {}), "interval": asked.interval}
    labels = {**model.labels, STABLE: stable, CANARY: asked.version}
    return Edit(_with(model, versions=versions, labels=labels, canary=settings), tuple(notes))


def mends(name: str) -> Callable[[Finding], bool]:
    """What `start` puts right of a section `canary` that was written before there was one."""
    return lambda finding: finding.path == ("models", name, "canary") and finding.message.startswith(NEEDS_LABEL)


def weight(name: str, model: Model, percent: int) -> Edit:
    _canary_version(name, model)
    notes: tuple[str, ...] = ()
    if model.canary and model.canary.auto and not model.canary.paused:
        notes = (f"the analysis goes on from there; to hold it: servekit canary pause {name}",)
        if percent >= (most := model.canary.analysis.max_weight):
            notes += (f"max_weight is {most}: the next check that passes promotes it",)
    return Edit(_with(model, canary={**_settings(model), "weight": percent}), notes)


def pause(name: str, model: Model) -> Edit:
    _canary_version(name, model)
    notes = () if model.canary and model.canary.auto else ("the analysis is off (auto: false): nothing moves anyway",)
    return Edit(_with(model, canary={**_settings(model), "paused": True}), notes)


def resume(name: str, model: Model) -> Edit:
    _canary_version(name, model)
    on = model.canary is not None and model.canary.auto
    notes = () if on else (f"the analysis is off (auto: false): servekit canary weight {name} N moves it",)
    return Edit(_with(model, canary={key: value for key, value in _settings(model).items() if key != "paused"}), notes)


def promote(name: str, model: Model, *, keep_old: bool = False) -> Edit:
    """The canary's version becomes stable; the old one is retired unless it is kept, or has another label."""
    version, old = _canary_version(name, model), model.labels.get(STABLE)
    labels = {STABLE: version} | {key: value for key, value in model.labels.items() if key not in (STABLE, CANARY)}
    labels = {key: labels[key] for key in (*model.labels, STABLE) if key in labels}
    return _ended(model, labels, () if keep_old or old is None else (old,))


def abort(name: str, model: Model) -> Edit:
    """Everything to stable again; the canary's version is retired unless it has another label."""
    version = _canary_version(name, model)
    labels = {key: value for key, value in model.labels.items() if key != CANARY}
    return _ended(model, labels, (version,))


def rewritten(text: str, file: str, name: str, before: Serving, model: Model) -> str:
    """serving.yaml with the model's entry changed to `model`. Raises ConfigError where the text does not allow it."""
    old, new = _plain(before.models[name]), _plain(model)
    after = before.model_copy(update={"models": {**before.models, name: model}})
    try:
        result = transfer(text, ("models", name), old, new)
        if typed(parse(result, file)) == after:
            return result
    except ConfigError as error:
        if typed_alone_is_wrong(after):
            raise error
    except (KeyError, ValueError):
        pass
    problem = parse(text, file).problem(
        ("models", name),
        "is written in a way that cannot be changed without changing something else (an anchor or a merge key)",
        "edit it by hand: the controller does the same",
    )
    raise ConfigError([problem])


def typed_alone_is_wrong(serving: Serving) -> bool:
    """What was meant breaks a rule of serving.yaml, however it is written."""
    return any(True for _ in serving.findings())


def is_running(model: Model) -> bool:
    """The canary's label gets requests, or is about to."""
    canary = model.canary or Canary()
    return CANARY in model.labels and bool(canary.weight or canary.mirror or canary.auto)


def _may_start(name: str, model: Model, asked: Start, published: set[int]) -> None:
    if is_running(model):
        percent, running = model.canary.weight if model.canary else 0, model.labels[CANARY]
        if running != asked.version:
            raise CannotEdit(
                ("labels", CANARY),
                f"a canary runs already (version {running} at {percent} %)",
                hint=f"servekit canary abort {name} (or promote {name}) ends it; then start version {asked.version}",
            )
        if asked.stable not in (None, model.labels.get(STABLE)):
            raise CannotEdit(
                ("labels", STABLE), f"the canary is compared with version {model.labels.get(STABLE)} already",
                hint=f"servekit canary abort {name}, then start it with --stable {asked.stable}",
            )  # fmt: skip
    for version in (asked.version, asked.stable):
        if version is not None and version not in published:
            there = ", ".join(map(str, sorted(published))) or "none"
            raise CannotEdit(
                ("versions",), f"version {version} is not exported (there are: {there})",
                hint=f"servekit export {name} --version {version}",
            )  # fmt: skip


def _stable(name: str, model: Model, asked: Start, served: tuple[int, ...]) -> tuple[int, list[str]]:
    labelled, notes = model.labels.get(STABLE), []
    stable = asked.stable if asked.stable is not None else labelled
    if stable is None:
        stable = max(served, default=None)
        notes.append(f"label stable means version {stable} from now on: what unlabelled requests got so far")
    if stable is None or stable == asked.version:
        raise CannotEdit(
            ("labels",) if labelled is not None else ("versions",),
            f"version {asked.version} is what unlabelled requests get already: a canary needs another version",
            hint=f"servekit canary start {name} --version {asked.version} --stable N, N being the version to compare "
            "it with",
        )
    return stable, notes


def _ended(model: Model, labels: dict[str, int], retired: tuple[int, ...]) -> Edit:
    versions, notes = model.versions, []
    for version in retired:
        if holders := [label for label, held in labels.items() if held == version]:
            if holders != [STABLE]:
                notes.append(f"version {version} stays: label {', '.join(holders)} points at it")
        elif not isinstance(versions, Specific):
            notes.append(f"version {version} stays: versions is {versions}, which serves what is on disk")
        elif rest := tuple(number for number in versions.specific if number != version):
            versions = Specific(specific=rest)
    settings = {key: value for key, value in _settings(model).items() if key not in _OF_ONE_CANARY}
    return Edit(_with(model, versions=versions, labels=labels, canary=settings), tuple(notes))


def _canary_version(name: str, model: Model) -> int:
    if CANARY not in model.labels:
        hint = f"servekit canary start {name} --version N begins one; servekit canary history {name} tells of the last"
        raise CannotEdit(("labels",), "has no canary (no label canary)", hint=hint)
    return model.labels[CANARY]


def _settings(model: Model) -> dict[str, Any]:
    """What the section `canary` says in so many words."""
    return model.canary.model_dump(exclude_unset=True, mode="json") if model.canary else {}


def _with(model: Model, **changes: Any) -> Model:
    if "canary" in changes:
        settings: Mapping[str, Any] = changes["canary"]
        try:
            changes["canary"] = Canary.model_validate(settings) if settings else None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise CannotEdit(("canary",), f"{place} {first['msg']}", hint="servekit canary start --help") from None
    return model.model_copy(update=changes)


def _plain(model: Model) -> dict[str, Any]:
    """As YAML would have it, without defaults."""
    plain = model.model_dump(exclude_unset=True, exclude_defaults=False, mode="json", include={"versions", "labels"})
    if settings := _settings(model):
        plain["canary"] = settings
    return {key: value for key, value in plain.items() if value != {}}
