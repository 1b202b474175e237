"""What became of every version: the latest state of each, and waiting for states.

Versions that ended stay listed, as TF Serving's status answers list them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable

from servekit.server.servable import ServableId, ServableState, State


class StateMonitor:
    """The latest state of each version that was ever managed, or of those since `follow`. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._states: dict[str, dict[int, ServableState]] = {}
        self._stopped = False

    def publish(self, state: ServableState) -> None:
        with self._changed:
            self._states.setdefault(state.id.name, {})[state.id.version] = state
            self._changed.notify_all()

    def state(self, id: ServableId) -> ServableState | None:
        with self._changed:
            return self._states.get(id.name, {}).get(id.version)

    def versions(self, name: str) -> list[ServableState]:
        """All versions of a model, highest first; empty for an unknown model."""
        with self._changed:
            return [state for _, state in sorted(self._states.get(name, {}).items(), reverse=True)]

    def stop(self) -> None:
        """Ends every wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_until_available(self, names: Iterable[str]) -> dict[ServableId, ServableState] | None:
        """Waits, without limit, until each model has a version that is AVAILABLE or has ended; the highest such counts.

        Returns those versions, or None when the monitor was stopped meanwhile.
        """
        wanted = sorted(set(names))
        with self._changed:
            while not self._stopped:
                reached = [self._highest_settled(name) for name in wanted]
                if all(state is not None for state in reached):
                    return {state.id: state for state in reached if state is not None}
                self._changed.wait()
        return None

    def _highest_settled(self, name: str) -> ServableState | None:
        for _, state in sorted(self._states.get(name, {}).items(), reverse=True):
            if state.state in (State.AVAILABLE, State.END):
                return state
        return None


class EventBus:
    """Hands every state to the monitors that listen; a monitor that nobody holds any more drops out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._monitors: weakref.WeakSet[StateMonitor] = weakref.WeakSet()

    def follow(self) -> StateMonitor:
        """A monitor that knows only what happens from now on."""
        monitor = StateMonitor()
        with self._lock:
            self._monitors.add(monitor)
        return monitor

    def publish(self, state: ServableState) -> None:
        with self._lock:
            monitors = list(self._monitors)
        for monitor in monitors:
            monitor.publish(state)

    def stop(self) -> None:
        with self._lock:
            monitors = list(self._monitors)
        for monitor in monitors:
            monitor.stop()
