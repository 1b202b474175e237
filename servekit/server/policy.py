"""Which version of a model to load or unload next: pure decisions on a snapshot.

Both are TF Serving's aspired-version policies (`tensorflow_serving/core/*_preserving_policy.cc`), order and all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servekit.server.servable import ServableId


class HarnessState(enum.Enum):
    """What the manager knows of a version it manages; finer than the public `State`."""

    NEW = "new"
    BUSY = "busy"
    """Load or unload was requested and has not ended."""
    READY = "ready"
    DISABLED = "disabled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One managed version; `is_aspired`: the source still wants it."""

    id: ServableId
    state: HarnessState
    is_aspired: bool


class Verb(enum.Enum):
    UNLOAD = 0
    LOAD = 1


@dataclass(frozen=True, slots=True)
class Action:
    verb: Verb
    id: ServableId


AspiredVersionPolicy = Callable[[Sequence[Snapshot]], "Action | None"]


def availability_preserving(versions: Sequence[Snapshot]) -> Action | None:
    """Keeps some version available at all times, at the price of two in memory.

    Unloads the lowest ready version that is not wanted, if a wanted one is ready, or none is wanted, or more than one
    unwanted version is ready; otherwise loads the highest new one.
    """
    aspired = [v for v in versions if v.is_aspired]
    aspired_ready = [v for v in aspired if v.state is HarnessState.READY]
    unwanted_ready = [v.id for v in versions if not v.is_aspired and v.state is HarnessState.READY]
    if unwanted_ready and (not aspired or aspired_ready or len(unwanted_ready) > 1):
        return Action(Verb.UNLOAD, min(unwanted_ready))
    return _load_highest(versions)


def resource_preserving(versions: Sequence[Snapshot]) -> Action | None:
    """Never holds more than needed: unloads every unwanted version (lowest first) before it loads a new one."""
    unwanted_ready = [v.id for v in versions if not v.is_aspired and v.state is HarnessState.READY]
    if unwanted_ready:
        return Action(Verb.UNLOAD, min(unwanted_ready))
    done = (HarnessState.NEW, HarnessState.DISABLED, HarnessState.ERROR)
    if any(not v.is_aspired and v.state not in done for v in versions):
        return None
    return _load_highest(versions)


def first_of(actions: Sequence[Action | None]) -> Action | None:
    """One action of all models': any unload before any load."""
    return min((a for a in actions if a is not None), key=lambda a: a.verb.value, default=None)


def _load_highest(versions: Sequence[Snapshot]) -> Action | None:
    new = [v.id for v in versions if v.is_aspired and v.state is HarnessState.NEW]
    return Action(Verb.LOAD, max(new)) if new else None
