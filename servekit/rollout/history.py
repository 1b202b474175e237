"""What the controller did and where it stands: one JSON file, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from servekit.atomic import write_atomically
from servekit.paths import Bundle

KEPT = 200
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Event:
    """`result`: started, done, failed, refused. `at`: ISO 8601, UTC."""

    at: str
    model: str
    step: str
    result: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """`phase` by model: the step under way; nothing between steps. Oldest event first, the last KEPT of them."""

    phase: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def began(self, model: str, step: str) -> History:
        return replace(self, phase={**self.phase, model: step})

    def ended(self, event: Event) -> History:
        phase = {model: step for model, step in self.phase.items() if model != event.model}
        return History(phase, (*self.events, event)[-KEPT:])


def path(bundle: Bundle) -> Path:
    return bundle.state / "rollout.json"


def read(bundle: Bundle) -> History:
    """Empty where there is none, or one that cannot be read: the next plan is made from what the server shows."""
    try:
        document = json.loads(path(bundle).read_text(encoding="utf-8"))
        events = tuple(Event(**event) for event in document["events"])
        return History(dict(document["phase"]), events)
    except (OSError, ValueError, KeyError, TypeError):
        return History()


def write(bundle: Bundle, history: History) -> None:
    write_atomically(path(bundle), json.dumps(_document(history), indent=2) + "\n")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _document(history: History) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "phase": dict(history.phase),
        "events": [asdict(event) for event in history.events],
    }
