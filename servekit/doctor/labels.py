"""Check `labels`: does the running server serve the versions and labels it was told to, and if not, can it ever?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.client import Client
from servekit.config.serving import Serving
from servekit.config.source import Source
from servekit.config.transition import frozen_labels
from servekit.doctor.finding import Finding, error, listed, note
from servekit.doctor.serving_yaml import as_warnings
from servekit.engine import health
from servekit.engine.health import ModelHealth
from servekit.errors import Code, EngineError, Problem, StatusError, Unreachable

PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class LabelFacts:
    url: str | None
    """Of a server that is meant to run; None when there is none."""
    models: tuple[ModelHealth, ...] = ()
    """What models.config asks for and what the server says."""
    no_answer: str | None = None
    frozen: tuple[Problem, ...] = ()
    """Labels that serving.yaml would move and add the version for in one edit."""


def gather(url: str | None, models_config: Path, serving: Serving | None, source: Source | None) -> LabelFacts:
    frozen: tuple[Problem, ...] = ()
    if serving and source and models_config.is_file():
        findings = frozen_labels(models_config.read_text(errors="replace"), serving)
        frozen = tuple(source.problem(one.path, one.message, one.hint) for one in findings)
    if url is None:
        return LabelFacts(None, frozen=frozen)
    try:
        configured = health.configured_models(models_config)
        with Client(url, timeout_s=PATIENCE_S) as client:
            return LabelFacts(url, tuple(health.examine(client, configured)), frozen=frozen)
    except (Unreachable, StatusError, EngineError) as problem:
        return LabelFacts(url, no_answer=str(problem), frozen=frozen)


def judge(facts: LabelFacts) -> Iterator[Finding]:
    yield from as_warnings(facts.frozen, "labels.two-steps-in-one")
    if facts.no_answer:
        yield error(
            "labels.no-answer",
            facts.url or "",
            f"does not answer: {facts.no_answer} (its ports open when every model has a version)",
            "servekit doctor --only log,settings",
        )
    for model in facts.models:
        yield from _model(model)


def _model(model: ModelHealth) -> Iterator[Finding]:
    name, status = model.configured.name, model.observed.status
    if isinstance(status, StatusError):
        yield error(
            "labels.model-unknown",
            name,
            f"is in models.config and not in the server: {status.message}",
            "servekit doctor --only log,rendered: it has not read the file, or refused it",
        )
        return
    states = {one.version: one for one in status.versions}
    available = status.available()
    if not available:
        yield error("labels.nothing-available", name, "no version is AVAILABLE: every request fails", "servekit status")
    for version in model.configured.versions or tuple(states):
        one = states.get(version)
        place = f"{name} version {version}"
        if one is None:
            yield error(
                "labels.version-unknown",
                place,
                "is configured, and the server has never heard of it",
                f"ls models/{name}: is the folder there and whole? servekit doctor --only versions,log",
            )
        elif one.code is not Code.OK:
            yield error(
                "labels.version-failed",
                place,
                f"did not load and will not be tried again: {one.message}; a server that starts anew with it in "
                "models.config ends",
                f"correct it as version {max(states) + 1} (this number stays failed until the server starts again), "
                f"take {version} out of serving.yaml, servekit apply",
            )
        elif one.state in ("START", "LOADING"):
            yield note(
                "labels.version-loading",
                place,
                f"is {one.state}; a request that is running, on any model, delays it",
                "servekit status",
            )
    for label, version in model.configured.labels.items():
        yield from _label(
            name, label, version, model.observed.labels[label], version in available, listed(map(str, available))
        )


def _label(
    name: str, label: str, version: int, answer: int | StatusError, is_available: bool, available: str
) -> Iterator[Finding]:
    place = f"{name} label {label}"
    if answer == version:
        return
    now = f"means version {answer}" if isinstance(answer, int) else f"is refused ({answer.message})"
    if not is_available:
        back = f"{label}: {answer}" if isinstance(answer, int) else f"{label} at {available or 'an available version'}"
        yield error(
            "labels.cannot-move",
            place,
            f"{now}, should be {version}, which is not AVAILABLE (available: {available or 'none'}): a label moves "
            "only to an AVAILABLE version, and until then the server refuses the whole file",
            f"servekit apply goes there in steps; or put {back} into serving.yaml, servekit render, and move it when "
            f"`servekit status` shows version {version} AVAILABLE",
        )
    else:
        yield error(
            "labels.not-moved",
            place,
            f"{now}, should be {version}, which is AVAILABLE: the server does not take up models.config",
            "servekit doctor --only log,rendered,settings; if nothing shows there, servekit down and up",
        )


def looked_at(facts: LabelFacts) -> str:
    if facts.url is None or facts.no_answer:
        return ""
    labels: Sequence[str] = [
        f"{label} {version}" for model in facts.models for label, version in model.configured.labels.items()
    ]
    return f"{facts.url} serves {listed(model.configured.name for model in facts.models)}; {listed(labels)}"
