"""From serving.yaml to a server that serves it: plan, write, prove, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from servekit.client import Client
from servekit.config.models import Model
from servekit.config.render import render
from servekit.config.rendered_files import CONTAINER_MODELS, MODELS
from servekit.config.serving import Serving
from servekit.config.write import compare, write
from servekit.errors import ServekitError
from servekit.gateway.answers import served_generation
from servekit.gateway.files import read_splits, write_routes
from servekit.gateway.splits import Split, desired_splits, generation
from servekit.paths import Bundle
from servekit.rollout import history, models_config
from servekit.rollout.history import Book, Event
from servekit.rollout.observe import POLL_S, observe, observe_at_rest
from servekit.rollout.plan import Change, Refused, Reroute, Step, Steps, after, fallback, order, plan
from servekit.rollout.proof import Available, Ended, Seen

TAKEN_S = 30.0
"""Beyond the polling interval: how long a server may take to show a moved label. A server that waits for a new model
without versions takes nothing any more."""

ROUTED_S = 15.0
"""How long the gateway may take to show routes that were written; it sees them within a second."""
SILENT_S = 3.0
"""How long a gateway that does not answer is waited for: one that restarts is back by then."""
ANSWER_S = 1.0
"""For one answer of the gateway about itself."""

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """`load_s`: for a version to load or unload. `container`: the server reads config/rendered/container.
    `gateway_url`: its metrics port, None where there is none. `drain_s`: how long requests that have a label already
    are on their way to the server at most."""

    load_s: float = 300.0
    container: bool = False
    gateway_url: str | None = None
    drain_s: float = 2.0


class StepFailed(ServekitError):
    """The server did not show what the step was to bring; models.config is back at what serves."""


class GatewaySilent(StepFailed):
    """The gateway does not show its new routes; nothing that needs them was done."""


class Superseded(Exception):
    """Something else is wanted by now; what was reached stays, and the next plan begins there."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A change that did not come about. `waits`: for the gateway, and may be tried again as it is."""

    change: Change
    waits: bool = False


class Controller:
    """One bundle and the server that reads its config/rendered/models.config. Not for several threads."""

    def __init__(self, bundle: Bundle, client: Client, listener: Listener, settings: Settings = Settings()) -> None:
        self._bundle = bundle
        self._client = client
        self._listener = listener
        self._settings = settings
        self._superseded: Callable[[], bool] = lambda: False
        self._book = Book(bundle)

    def plan(self, serving: Serving, *, patience_s: float | None = None) -> Iterator[tuple[Change, Steps | Refused]]:
        """What `converge` would do, model by model; writes nothing. Raises ServekitError, Unreachable.

        `patience_s`: for versions on their way up or down; after that the plan is one for a model in between. None:
        as long as for a step.
        """
        current = self._current()
        for name in _names(serving, current):
            change = self._observed(name, serving, current, patience_s)
            try:
                yield change, plan(change)
            except Refused as refused:
                yield change, refused

    def converge(
        self,
        serving: Serving,
        *,
        skip: Callable[[Change], bool] = lambda _: False,
        superseded: Callable[[], bool] = lambda: False,
    ) -> list[Wrong]:
        """Model by model: one that is refused or fails does not keep the others back. What went wrong.

        `skip` leaves a model as it is. `superseded` is asked after each step, and all the time while a version loads or
        unloads; it ends the whole. Models with a version on its way come after the others, which need not wait for
        them. Raises ServekitError when a file cannot be written, Unreachable when the server is gone; run again, it
        goes on from where the server then stands.
        """
        self._superseded = superseded
        current = self._current()
        self._write_others(serving)
        wrong: list[Wrong] = []
        for name in sorted(_names(serving, current), key=lambda name: self._is_moving(name, serving, current)):
            try:
                change = self._observed(name, serving, current)
                if skip(change):
                    continue
                if problem := self._run(change, plan(change), serving, current):
                    wrong.append(problem)
            except Refused as refused:
                self._record(_event(name, "plan", "refused", reason=refused.message))
                wrong.append(Wrong(change))
            except Superseded:
                break
        return wrong

    def _run(self, change: Change, steps: Steps, serving: Serving, current: dict[str, Model]) -> Wrong | None:
        meant = change
        for step in steps:
            began = time.monotonic()
            self._began(step)
            try:
                self._take(step, serving, current)
                self._prove(step, change, serving)
            except GatewaySilent as silent:
                self._record(_event(change.name, step.why, "waiting", silent.message, time.monotonic() - began))
                return Wrong(meant, waits=True)
            except Superseded:
                why = "serving.yaml was edited meanwhile"
                self._record(_event(change.name, step.why, "superseded", why, time.monotonic() - began))
                raise
            except StepFailed as failed:
                if any(isinstance(proof, Available) for proof in step.proofs):
                    self._write(serving, current, change.name, fallback(self._with_failures(change)))
                self._record(_event(change.name, step.why, "failed", failed.message, time.monotonic() - began))
                return Wrong(meant)
            if isinstance(step, Reroute) and step.drain:
                time.sleep(self._settings.drain_s)
            change = after(change, step)
            self._record(_event(change.name, step.why, "done", seconds=time.monotonic() - began))
            if step is not steps[-1]:
                self._give_way()
        return None

    def _take(self, step: Step | Reroute, serving: Serving, current: dict[str, Model]) -> None:
        if isinstance(step, Step):
            self._write(serving, current, step.model, step.entry)
            return
        splits = {name: split for name, split in self._splits().items() if name != step.model}
        if step.split is not None:
            splits[step.model] = step.split
        write_routes(self._bundle, serving, splits, container=self._settings.container)

    def _prove(self, step: Step | Reroute, change: Change, serving: Serving) -> None:
        """Returns when the server, or the gateway, shows every proof. Raises StepFailed."""
        poll_s, written = serving.server.poll_seconds, time.monotonic()
        if isinstance(step, Reroute):
            self._prove_routed(step, serving)
            return
        settled = written + 2 * poll_s + 1.5  # models.config is read, then the folders; an error before is an old one
        loads = any(isinstance(proof, (Available, Ended)) for proof in step.proofs)
        deadline = written + (self._settings.load_s if loads else poll_s + TAKEN_S)
        if not step.proofs:
            time.sleep(settled - written)
            return
        while True:
            seen = self._look(change)
            missing = [proof for proof in step.proofs if not proof.holds(seen)]
            if not missing:
                return
            now = time.monotonic()
            if now > settled and not seen.moving:
                for proof in missing:
                    if error := proof.failed(seen):
                        raise StepFailed(f"{proof} is not so: {error}")
            if now > deadline:
                raise StepFailed(
                    f"after {now - written:.0f} s the server does not show: {', '.join(map(str, missing))}",
                    hint="its log says why: servekit status",
                )
            if loads:
                self._give_way()
            time.sleep(POLL_S)

    def _prove_routed(self, step: Reroute, serving: Serving) -> None:
        url, began = self._settings.gateway_url, time.monotonic()
        while True:
            seen = self._with_gateway(Seen(), step.model, serving)
            if all(proof.holds(seen) for proof in step.proofs):
                return
            waited = time.monotonic() - began
            if seen.silent and waited > SILENT_S:
                raise GatewaySilent(
                    f"the gateway does not answer at {url}; its new routes are written, and it takes them up when it "
                    "is back",
                    hint="servekit status",
                )
            if waited > ROUTED_S:
                raise GatewaySilent(
                    f"after {waited:.0f} s the gateway still serves its old routes; what else was to come waits",
                    hint="its log says why: servekit status",
                )
            time.sleep(POLL_S)

    def _is_moving(self, name: str, serving: Serving, current: Mapping[str, Model]) -> bool:
        folder = _folder(name, serving.models.get(name) or current.get(name), self._bundle.models)
        return name in current and bool(observe(self._client, name, folder, ()).moving)

    def _observed(
        self, name: str, serving: Serving, current: Mapping[str, Model], patience_s: float | None = None
    ) -> Change:  # fmt: skip
        desired, now, models = serving.models.get(name), current.get(name), self._bundle.models
        folder = _folder(name, desired or now, models)
        moved = bool(desired and now) and folder != _folder(name, now, models)
        if desired and now and not moved:
            now = now.model_copy(update={"base_path": desired.base_path})
        labels = {*(desired.labels if desired else ()), *(now.labels if now else ())}
        patience_s = self._settings.load_s if patience_s is None else patience_s
        seen = observe_at_rest(self._client, name, folder, labels, patience_s, self._give_way)
        split = desired_splits(serving).get(name) if self._settings.gateway_url else None
        return Change(name, desired, now, self._with_gateway(seen, name, serving), moved, split)

    def _give_way(self) -> None:
        if self._superseded():
            raise Superseded

    def _look(self, change: Change) -> Seen:
        labels = {*(change.desired.labels if change.desired else ()), *change.seen.labels}
        folder = _folder(change.name, change.desired or change.current, self._bundle.models)
        return observe(self._client, change.name, folder, labels)

    def _with_gateway(self, seen: Seen, name: str, serving: Serving) -> Seen:
        """With what the gateway does with the model's unlabelled requests."""
        if self._settings.gateway_url is None:
            return seen
        splits = self._splits()
        # Twice: a virtual machine may stand still for as long as one answer may take.
        url = self._settings.gateway_url
        served = served_generation(url, ANSWER_S) or served_generation(url, ANSWER_S)
        behind = served is not None and served != generation(splits, serving)
        return replace(seen, split=splits.get(name), behind=behind, silent=served is None)

    def _splits(self) -> dict[str, Split]:
        return read_splits(self._bundle, container=self._settings.container)

    def _with_failures(self, change: Change) -> Change:
        """As it was, but for what did not load since."""
        return replace(change, seen=replace(change.seen, failed=self._look(change).failed))

    def _write(self, serving: Serving, current: dict[str, Model], name: str, entry: Model | None) -> None:
        """models.config with one entry changed. `current` follows, so that a failed write changes nothing."""
        models = {key: model for key, model in current.items() if key != name} | ({name: entry} if entry else {})
        ordered = {key: models[key] for key in (*serving.models, *models) if key in models}
        self._write_files(serving.model_copy(update={"models": ordered}), only_models=True)
        current.clear()
        current.update(ordered)

    def _write_others(self, serving: Serving) -> None:
        self._write_files(serving, only_models=False)

    def _write_files(self, serving: Serving, *, only_models: bool) -> None:
        texts = render(serving, models=self._bundle.models, templates=self._bundle.templates)
        chosen = {name: text for name, text in texts.items() if name.endswith(MODELS) is only_models}
        write(compare(chosen, self._bundle.rendered))

    def _current(self) -> dict[str, Model]:
        """What the server was given last. A container writes this machine's side with paths of its own."""
        if self._settings.container:
            return models_config.read(self._bundle.rendered_container / MODELS, Path(CONTAINER_MODELS))
        return models_config.read(self._bundle.rendered / MODELS, self._bundle.models)

    def _began(self, step: Step | Reroute) -> None:
        self._listener(_event(step.model, step.why, "started"))
        self._book.enter(lambda history: history.began(step.model, step.why))

    def _record(self, event: Event) -> None:
        self._book.enter(lambda history: history.ended(event))
        self._listener(event)


def _names(serving: Serving, current: Mapping[str, Model]) -> list[str]:
    names = list(dict.fromkeys((*serving.models, *current)))
    blank = [Change(name, serving.models.get(name), current.get(name), Seen()) for name in names]
    return [change.name for change in order(blank)]


def _folder(name: str, model: Model | None, models: Path) -> Path:
    return Path((model or Model()).folder(name, models.absolute()))


def _event(model: str, step: str, result: str, reason: str = "", seconds: float = 0.0) -> Event:
    return Event(history.now(), model, step, result, reason, round(seconds, 2))
