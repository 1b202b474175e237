"""What was done and where it stands, in steps and in the analysis of canaries: one JSON file, written whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from servekit.atomic import write_atomically
from servekit.canary.advance import Progress, read_progress
from servekit.paths import Bundle

KEPT = 400
SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Event:
    """`result` of a step: started, done, failed, refused, waiting (for the gateway), superseded (by an edit); of what a
    canary's user or analysis did: edited, failed (a check), promoted, aborted, rolled back. `at`: ISO 8601, UTC."""

    at: str
    model: str
    step: str
    result: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """`phase` by model: the step under way; nothing between steps. Oldest event first, the last KEPT of them.
    `progress` by model: of the analysis of its canary."""

    phase: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)

    def began(self, model: str, step: str) -> History:
        return replace(self, phase={**self.phase, model: step})

    def ended(self, event: Event) -> History:
        phase = {model: step for model, step in self.phase.items() if model != event.model}
        return replace(self, phase=phase, events=(*self.events, event)[-KEPT:])

    def told(self, event: Event) -> History:
        """An event beside the steps."""
        return replace(self, events=(*self.events, event)[-KEPT:])

    def of(self, model: str) -> History:
        """What is about one model."""
        return History(
            {name: step for name, step in self.phase.items() if name == model},
            tuple(event for event in self.events if event.model == model),
            {name: progress for name, progress in self.progress.items() if name == model},
        )

    def progressed(self, model: str, progress: Progress | None) -> History:
        others = {name: known for name, known in self.progress.items() if name != model}
        return replace(self, progress=others if progress is None else {**others, model: progress})


Entry = Callable[[History], History]


class Book:
    """The history of one bundle, to which several processes write: `servekit canary` beside a controller.

    Each entry is made to the file as it then is. What a full disk kept from being written is added to the next entry:
    the server and its clients come first.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._unwritten: list[Entry] = []

    def read(self) -> History:
        """As the file has it, with what could not be written yet."""
        history = read(self._bundle)
        for entry in self._unwritten:
            history = entry(history)
        return history

    def enter(self, entry: Entry) -> None:
        self._unwritten.append(entry)
        with contextlib.suppress(OSError), _locked(self._bundle):
            write(self._bundle, self.read())
            self._unwritten.clear()
        del self._unwritten[:-KEPT]


def path(bundle: Bundle) -> Path:
    return bundle.state / "rollout.json"


def read(bundle: Bundle) -> History:
    """Empty where there is none, or one that cannot be read: the next plan is made from what the server shows."""
    try:
        document = json.loads(path(bundle).read_text(encoding="utf-8"))
        events = tuple(Event(**event) for event in document["events"])
        progress = {model: read_progress(known) for model, known in document.get("progress", {}).items()}
        return History(dict(document["phase"]), events, progress)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return History()


def since(events: tuple[Event, ...], last: Event | None) -> tuple[Event, ...]:
    """Those after `last`; all where it is not among them any more."""
    places = [place for place, event in enumerate(events) if event == last]
    return events[places[-1] + 1 :] if places else events


def write(bundle: Bundle, history: History) -> None:
    """Raises OSError, and leaves the file as it was."""
    write_atomically(path(bundle), json.dumps(_document(history), indent=2) + "\n")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(bundle: Bundle) -> Iterator[None]:
    bundle.state.mkdir(parents=True, exist_ok=True)
    with (bundle.state / "rollout.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _document(history: History) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "phase": dict(history.phase),
        "progress": {model: progress.document() for model, progress in history.progress.items()},
        "events": [asdict(event) for event in history.events],
    }
