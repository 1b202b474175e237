"""The automatic analysis: measures each canary at its interval, and edits serving.yaml by what comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from servekit.analysis.annotate import Grafana
from servekit.analysis.measure import Analyst, Sources
from servekit.analysis.verdict import Check, Verdict
from servekit.canary import edit, file
from servekit.canary.advance import Action, Hold, Progress, Promote, RollBack, SetWeight, advance
from servekit.canary.edit import CANARY, STABLE, CannotEdit, Edit
from servekit.config.canary import Canary
from servekit.config.models import Model
from servekit.config.serving import Serving
from servekit.errors import ServekitError
from servekit.paths import Bundle
from servekit.rollout import history
from servekit.rollout.history import Book, Event
from servekit.rollout.metrics import Metrics

Clock = Callable[[], float]


@dataclass(slots=True)
class _Check:
    """One check under way in a thread of its own: a slow gate does not keep an abort waiting."""

    about: Progress
    thread: threading.Thread
    verdict: Verdict | None = None
    problem: str = ""
    told: bool = False
    """That it has ended."""


class Analyses:
    """All canaries of one bundle that have `auto`. Called by the watching controller between its rounds."""

    def __init__(
        self,
        bundle: Bundle,
        sources: Sources,
        metrics: Metrics,
        say: Callable[[str], None],
        grafana: Grafana | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._bundle = bundle
        self._sources = sources
        self._metrics = metrics
        self._say = say
        self._grafana = grafana
        self._clock = clock
        self._book = Book(bundle)
        self._analysts: dict[str, Analyst] = {}
        self._checks: dict[str, _Check] = {}
        self._actions: dict[str, tuple[Progress, Action]] = {}
        self._edited = False

    def once(self, serving: Serving, converged: Collection[str], not_loaded: Mapping[str, str]) -> bool:
        """`converged`: models whose server and gateway are as serving.yaml says. `not_loaded`: why the version of a
        model's canary did not load. True when serving.yaml was edited. Raises ServekitError when the file cannot be
        written; the next call tries again."""
        self._edited = False
        known = dict(self._book.read().progress)
        for name in {*known, *self._analysts} - {name for name in serving.models if _is_watched(serving, name)}:
            self._forget(name, known)
        for name in serving.models:
            if not _is_watched(serving, name):
                continue
            if name in not_loaded and name not in self._actions:
                labels = serving.models[name].labels
                about = Progress(labels[STABLE], labels[CANARY], self._clock())
                reason = f"version {about.canary} did not load: {not_loaded[name]}"
                self._actions[name] = about, RollBack(reason)
                known[name] = about
            self._model(name, serving, known, at_rest=name in converged)
        self._metrics.analysed(serving, self._book.read().progress)
        return self._edited

    def has_news(self) -> bool:
        """A check has ended since this was asked last."""
        ended = [check for check in self._checks.values() if not check.told and not check.thread.is_alive()]
        for check in ended:
            check.told = True
        return bool(ended)

    def _model(self, name: str, serving: Serving, known: dict[str, Progress], *, at_rest: bool) -> None:
        labels = serving.models[name].labels
        progress = known.get(name)
        if progress is None or not progress.is_about(labels.get(STABLE), labels.get(CANARY)):
            if at_rest:
                self._begin(name, serving)
            return
        if name in self._actions:
            self._act(name, *self._actions[name])
            return
        canary = serving.models[name].canary or Canary()
        check = self._checks.get(name)
        if check is None and not canary.paused and progress.verdict and progress.failed >= canary.analysis.threshold:
            # Killed between counting the last failed check and the edit that follows from it.
            self._actions[name] = progress, advance(canary, progress, replace(progress.verdict, result="fail"))
        elif check is not None:
            if not check.thread.is_alive():
                del self._checks[name]
                self._checked(name, canary, check)
        elif at_rest and not canary.paused:
            if name not in self._analysts:  # another controller began it
                self._analyst(name, serving).begin()
            if progress.is_due(canary, self._clock()):
                self._start_check(name, serving, progress)

    def _begin(self, name: str, serving: Serving) -> None:
        labels = serving.models[name].labels
        progress = Progress(labels[STABLE], labels[CANARY], self._clock())
        self._analyst(name, serving).begin()
        self._book.enter(lambda kept: kept.progressed(name, progress))
        self._say(f"  {name}: the analysis of version {progress.canary} begins")

    def _analyst(self, name: str, serving: Serving) -> Analyst:
        if name not in self._analysts:
            self._analysts[name] = Analyst(self._bundle, name, serving, self._sources)
        self._analysts[name].serving = serving
        return self._analysts[name]

    def _start_check(self, name: str, serving: Serving, progress: Progress) -> None:
        analyst = self._analyst(name, serving)

        def run() -> None:
            try:
                check.verdict = analyst.check()
            except Exception as error:  # noqa: BLE001 - a check that breaks is told; the controller goes on
                check.problem = f"{type(error).__name__}: {error}"

        check = _Check(progress, threading.Thread(target=run, daemon=True))
        self._checks[name] = check
        check.thread.start()

    def _checked(self, name: str, canary: Canary, check: _Check) -> None:
        verdict = check.verdict
        if verdict is None:
            broken = Check("analysis", "no data", None, "", f"the check broke: {check.problem}")
            verdict = Verdict("no data", (broken,), history.now())
            self._say(f"error: {name}: the check broke: {check.problem}")
            self._metrics.error()
        progress = check.about.after(verdict, self._clock())
        action = advance(canary, progress, verdict)
        self._book.enter(lambda kept: kept.progressed(name, progress))
        if isinstance(action, Hold):
            self._say(f"  {name}: {action.why}")
            if verdict.result == "fail":
                self._tell(Event(history.now(), name, "check", "failed", action.why))
        else:
            self._actions[name] = progress, action
            self._act(name, progress, action)

    def _act(self, name: str, progress: Progress, action: Action) -> None:
        """Raises ServekitError when serving.yaml cannot be edited now; the action stays to be done."""
        done = file.change(self._bundle, name, lambda _, model: _operation(name, progress, action, model))
        del self._actions[name]
        if done.before == done.after:
            return  # somebody else was first
        self._edited = True
        self._tell(event(name, progress, action))

    def _tell(self, event: Event) -> None:
        event = replace(event, reason=" ".join(event.reason.split()))  # errors of a graph come in several lines
        self._book.enter(lambda kept: kept.told(event))
        self._say(f"  {event.model}: {event.step}: {event.result}{event.reason and ': '}{event.reason}")
        if event.step == "check":
            return
        self._metrics.decided(event.model, "weight" if event.result == "edited" else event.result)
        if self._grafana is not None:
            text = f"{event.model}: {event.step}: {event.reason}"
            grafana = self._grafana
            threading.Thread(target=lambda: grafana.annotate(event.model, event.result, text), daemon=True).start()

    def _forget(self, name: str, known: dict[str, Progress]) -> None:
        self._checks.pop(name, None)
        self._actions.pop(name, None)
        if analyst := self._analysts.pop(name, None):
            analyst.close()
        if name in known:
            self._book.enter(lambda kept: kept.progressed(name, None))


def event(name: str, progress: Progress, action: Action) -> Event:
    """What the history says of an action."""
    version, now = progress.canary, history.now()
    if isinstance(action, Promote):
        return Event(now, name, f"promote version {version}", "promoted", action.why)
    if isinstance(action, RollBack):
        return Event(now, name, f"roll back version {version}", "rolled back", action.reason)
    if isinstance(action, SetWeight):
        return Event(now, name, f"weight of version {version} to {action.weight} %", "edited", action.why)
    return Event(now, name, "check", "failed", action.why)


def _operation(name: str, progress: Progress, action: Action, model: Model) -> Edit:
    """The file may have changed since the check: then nothing is done, for it was about something else."""
    canary = model.canary or Canary()
    same = progress.is_about(model.labels.get(STABLE), model.labels.get(CANARY))
    if not same or not canary.auto or canary.paused:
        return Edit(model)
    try:
        if isinstance(action, Promote):
            return edit.promote(name, model)
        if isinstance(action, RollBack):
            return edit.abort(name, model)
        if isinstance(action, SetWeight) and action.weight > canary.weight:
            return edit.weight(name, model, action.weight)
    except CannotEdit as error:
        raise ServekitError(f"{name}: {error.message}") from None
    return Edit(model)


def _is_watched(serving: Serving, name: str) -> bool:
    """A paused one keeps its progress."""
    model = serving.models[name]
    return model.canary is not None and model.canary.auto and STABLE in model.labels and CANARY in model.labels
