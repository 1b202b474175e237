"""Everything about a canary in one look: what serving.yaml wants, what server and gateway do, what was measured."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servekit.canary.advance import Progress
from servekit.canary.edit import CANARY, STABLE
from servekit.client import Client
from servekit.config.canary import Canary, seconds
from servekit.config.serving import Serving
from servekit.errors import ServekitError, StatusError, Unreachable
from servekit.gateway.answers import served_generation
from servekit.gateway.files import read_splits
from servekit.gateway.splits import Split, desired_splits, generation
from servekit.paths import Bundle
from servekit.rollout import history
from servekit.rollout.at_work import AtWork, at_work
from servekit.rollout.history import Event
from servekit.rollout.metrics import phase
from servekit.rollout.observe import observe

RECENT = 8


@dataclass(frozen=True, slots=True)
class Label:
    """`desired`: by serving.yaml; `actual`: on the server, None when it does not answer."""

    name: str
    desired: int | None
    actual: int | None


@dataclass(frozen=True, slots=True)
class ModelLook:
    """`weight_actual`: None when no gateway shows it. `next_check_s`: until then; None without analysis."""

    name: str
    phase: str
    step: str
    labels: tuple[Label, ...]
    states: dict[int, str]
    weight_desired: int
    weight_actual: int | None
    mirror: int
    progress: Progress | None
    threshold: int
    max_weight: int
    next_check_s: float | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """`problems`: why the server or the gateway could not be asked. `notes`: why nobody can say here what the gateway
    gives out. `hints`: what to type then."""

    models: tuple[ModelLook, ...]
    controller: AtWork | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "controller": asdict(self.controller) if self.controller else None,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "hints": list(self.hints),
            "models": [_document(model) for model in self.models],
        }


def look(
    bundle: Bundle, serving: Serving, client: Client, gateway_url: str | None, *, container: bool, only: str | None
) -> Look:
    """Asks server and gateway once; what does not answer is a problem, not an error."""
    kept, problems, hints = history.read(bundle), list[str](), list[str]()
    splits = _splits_at_the_gateway(bundle, serving, gateway_url, container, problems)
    models = []
    for name in serving.models:
        if only is not None and name != only:
            continue
        labels, states = _labels(bundle, serving, name, client, problems, hints)
        model = serving.models[name]
        canary, progress = model.canary or Canary(), kept.progress.get(name)
        if progress and not progress.is_about(model.labels.get(STABLE), model.labels.get(CANARY)):
            progress = None
        now = phase(serving, name)
        due = progress.checked_at + seconds(canary.analysis.interval) - time.time() if progress else None
        models.append(
            ModelLook(
                name=name,
                phase=now,
                step=kept.phase.get(name, ""),
                labels=labels,
                states=states,
                weight_desired=desired_splits(serving).get(name, Split()).weight,
                weight_actual=None if splits is None else splits.get(name, Split()).weight,
                mirror=canary.mirror,
                progress=progress,
                threshold=canary.analysis.threshold,
                max_weight=canary.analysis.max_weight,
                next_check_s=None if due is None or now != "analysing" else round(max(0.0, due), 1),
                events=tuple(event for event in kept.events if event.model == name)[-RECENT:],
            )
        )
    notes = []
    if gateway_url is None:
        note, hint = _why_not_known(serving, container=container)
        notes = [note]
        hints = hints or ([hint] if hint else [])
    told = (tuple(dict.fromkeys(texts)) for texts in (problems, notes, hints))
    return Look(tuple(models), at_work(bundle), *told)


IN_THE_STACK = "docker compose exec controller servekit canary status"


def _why_not_known(serving: Serving, *, container: bool) -> tuple[str, str]:
    """What the gateway gives out cannot be told: the reason, and a command that tells it."""
    if not serving.gateway.enabled:
        return "the gateway is off (gateway.enabled: false): nobody labels unlabelled requests", ""
    if container:
        return "what the stack's gateway gives out is known inside the stack alone", IN_THE_STACK
    return (
        "what the gateway gives out is not known: no gateway of `servekit up` runs here",
        f"servekit canary status --gateway-url http://HOST:PORT; in a stack of docker compose: {IN_THE_STACK}",
    )


def _labels(
    bundle: Bundle, serving: Serving, name: str, client: Client, problems: list[str], hints: list[str]
) -> tuple[tuple[Label, ...], dict[int, str]]:
    model = serving.models[name]
    wanted = list(dict.fromkeys((STABLE, CANARY, *model.labels)))
    folder = Path(model.folder(name, bundle.models.absolute()))
    try:
        seen = observe(client, name, folder, wanted)
    except Unreachable as error:
        problems.append(f"the server does not answer: {error}")
        hints.append("servekit up starts one; servekit canary status --url grpc://HOST:PORT asks another one")
        return tuple(Label(label, version, None) for label, version in model.labels.items()), {}
    except StatusError as error:
        problems.append(f"{name}: {error}")
        return tuple(Label(label, version, None) for label, version in model.labels.items()), {}
    labels = (Label(label, model.labels.get(label), seen.labels.get(label)) for label in wanted)
    return tuple(one for one in labels if one.desired is not None or one.actual is not None), dict(seen.states)


def _splits_at_the_gateway(
    bundle: Bundle, serving: Serving, url: str | None, container: bool, problems: list[str]
) -> dict[str, Split] | None:
    if url is None:
        return None
    try:
        splits = read_splits(bundle, container=container)
    except ServekitError as error:
        problems.append(str(error))
        return None
    served = served_generation(url, 1.0)
    if served == generation(splits, serving):
        return splits
    problems.append(
        f"the gateway does not answer at {url}" if served is None else "the gateway has not taken its new routes yet"
    )
    return None


def _document(model: ModelLook) -> dict[str, Any]:
    return {
        "name": model.name,
        "phase": model.phase,
        "step": model.step or None,
        "labels": {label.name: {"desired": label.desired, "actual": label.actual} for label in model.labels},
        "versions": {str(version): state for version, state in sorted(model.states.items())},
        "weight": {"desired": model.weight_desired, "actual": model.weight_actual},
        "mirror": model.mirror,
        "failed_checks": model.progress.failed if model.progress else None,
        "threshold": model.threshold,
        "max_weight": model.max_weight,
        "next_check_seconds": model.next_check_s,
        "verdict": model.progress.verdict.document() if model.progress and model.progress.verdict else None,
        "history": [asdict(event) for event in model.events],
    }
