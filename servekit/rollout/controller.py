"""From serving.yaml to a server that serves it: plan, write, prove, step by step."""

from __future__ import annotations

import contextlib
import fcntl
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
from servekit.paths import Bundle
from servekit.rollout import history, models_config
from servekit.rollout.history import Event, History
from servekit.rollout.observe import POLL_S, observe, observe_at_rest
from servekit.rollout.plan import Change, Refused, Step, fallback, order, plan
from servekit.rollout.proof import Available, Ended, Seen

TAKEN_S = 30.0
"""Beyond the polling interval: how long a server may take to show a moved label. A server that waits for a new model
without versions takes nothing any more."""

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """`load_s`: for a version to load or unload. `container`: the server reads config/rendered/container."""

    load_s: float = 300.0
    container: bool = False


class StepFailed(ServekitError):
    """The server did not show what the step was to bring; models.config is back at what serves."""


@contextlib.contextmanager
def only_one(bundle: Bundle) -> Iterator[None]:
    """Raises ServekitError when another controller is at work here; the lock goes with its process."""
    bundle.state.mkdir(parents=True, exist_ok=True)
    with (bundle.state / "apply.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServekitError(
                "another `servekit apply` is at work here", hint="servekit apply --history shows what it does"
            ) from None
        yield


class Controller:
    """One bundle and the server that reads its config/rendered/models.config. Not for several threads."""

    def __init__(self, bundle: Bundle, client: Client, listener: Listener, settings: Settings = Settings()) -> None:
        self._bundle = bundle
        self._client = client
        self._listener = listener
        self._settings = settings
        self._history = history.read(bundle)

    def plan(self, serving: Serving) -> Iterator[tuple[Change, tuple[Step, ...] | Refused]]:
        """What `converge` would do, model by model; writes nothing. Raises ServekitError, Unreachable."""
        current = self._current()
        for name in _names(serving, current):
            change = self._observed(name, serving, current)
            try:
                yield change, plan(change)
            except Refused as refused:
                yield change, refused

    def converge(self, serving: Serving, *, skip: Callable[[Change], bool] = lambda _: False) -> list[Change]:
        """Model by model: one that is refused or fails does not keep the others back. The changes that went wrong.

        `skip` leaves a model as it is. Raises ServekitError when a file cannot be written, Unreachable when the
        server is gone; run again, it goes on from where the server then stands.
        """
        current = self._current()
        self._write_others(serving)
        wrong: list[Change] = []
        for name in _names(serving, current):
            change = self._observed(name, serving, current)
            if skip(change):
                continue
            try:
                steps = plan(change)
            except Refused as refused:
                self._record(_event(name, "plan", "refused", reason=refused.message))
                wrong.append(change)
                continue
            if not self._run(change, steps, serving, current):
                wrong.append(change)
        return wrong

    def _run(self, change: Change, steps: tuple[Step, ...], serving: Serving, current: dict[str, Model]) -> bool:
        for step in steps:
            began = time.monotonic()
            self._began(step)
            try:
                self._write(serving, current, step.model, step.entry)
                self._prove(step, change, serving.server.poll_seconds)
            except StepFailed as failed:
                if any(isinstance(proof, Available) for proof in step.proofs):
                    self._write(serving, current, change.name, fallback(self._with_failures(change)))
                self._record(_event(change.name, step.why, "failed", failed.message, time.monotonic() - began))
                return False
            self._record(_event(change.name, step.why, "done", seconds=time.monotonic() - began))
        return True

    def _prove(self, step: Step, change: Change, poll_s: float) -> None:
        """Returns when the server shows every proof. Raises StepFailed."""
        written = time.monotonic()
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
            time.sleep(POLL_S)

    def _observed(self, name: str, serving: Serving, current: Mapping[str, Model]) -> Change:
        desired, now, models = serving.models.get(name), current.get(name), self._bundle.models
        folder = _folder(name, desired or now, models)
        moved = bool(desired and now) and folder != _folder(name, now, models)
        if desired and now and not moved:
            now = now.model_copy(update={"base_path": desired.base_path})
        labels = {*(desired.labels if desired else ()), *(now.labels if now else ())}
        seen = observe_at_rest(self._client, name, folder, labels, self._settings.load_s)
        return Change(name, desired, now, seen, moved)

    def _look(self, change: Change) -> Seen:
        labels = {*(change.desired.labels if change.desired else ()), *change.seen.labels}
        folder = _folder(change.name, change.desired or change.current, self._bundle.models)
        return observe(self._client, change.name, folder, labels)

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

    def _began(self, step: Step) -> None:
        self._listener(_event(step.model, step.why, "started"))
        self._keep(self._history.began(step.model, step.why))

    def _record(self, event: Event) -> None:
        self._keep(self._history.ended(event))
        self._listener(event)

    def _keep(self, changed: History) -> None:
        self._history = changed
        # On a full disk the server comes first: what happened is then told, not kept.
        with contextlib.suppress(OSError):
            history.write(self._bundle, changed)


def _names(serving: Serving, current: Mapping[str, Model]) -> list[str]:
    names = list(dict.fromkeys((*serving.models, *current)))
    blank = [Change(name, serving.models.get(name), current.get(name), Seen()) for name in names]
    return [change.name for change in order(blank)]


def _folder(name: str, model: Model | None, models: Path) -> Path:
    return Path((model or Model()).folder(name, models.absolute()))


def _event(model: str, step: str, result: str, reason: str = "", seconds: float = 0.0) -> Event:
    return Event(history.now(), model, step, result, reason, round(seconds, 2))
