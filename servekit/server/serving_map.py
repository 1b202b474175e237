"""Which loaded versions answer requests: a map that is replaced as a whole once the old one is no longer used.

As in TF Serving, a handle keeps alive the whole map that it was taken from, so a change becomes visible to the manager
only when every request that began before it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType

from servekit.errors import Code, StatusError
from servekit.server.servable import Servable, ServableId

_FAILED_ON = "servable_id"


class _Generation:
    __slots__ = ("by_id", "latest", "users")

    def __init__(self, by_id: Mapping[ServableId, Servable]) -> None:
        self.by_id = dict(by_id)
        self.latest: dict[str, ServableId] = {}
        for id in sorted(by_id):
            self.latest[id.name] = id
        self.users = 0


class ServableHandle:
    """Keeps a version loaded while it is held: `with core.handle(spec) as handle: handle.servable.run(...)`."""

    __slots__ = ("_generation", "_map", "_released", "id", "servable")

    def __init__(self, owner: ServingMap, generation: _Generation, id: ServableId) -> None:
        self._map = owner
        self._generation = generation
        self._released = False
        self.id = id
        self.servable: Servable = generation.by_id[id]

    def release(self) -> None:
        """Lets go; a second call does nothing."""
        if not self._released:
            self._released = True
            self._map._release(self._generation)

    def __enter__(self) -> ServableHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            error.__dict__[_FAILED_ON] = self.id
        self.release()


def failed_on(error: BaseException) -> ServableId | None:
    """The version whose handle was held when `error` was raised: what a failed request counts for."""
    found: ServableId | None = error.__dict__.get(_FAILED_ON)
    return found


class ServingMap:
    """Thread-safe; `acquire` never waits for `replace`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._current = _Generation({})
        self._closing = False

    def acquire(self, name: str, version: int | None) -> ServableHandle:
        """A handle of this version, or of the highest available one. Raises StatusError NOT_FOUND."""
        with self._lock:
            generation = self._current
            id = generation.latest.get(name) if version is None else ServableId(name, version)
            if id is None or id not in generation.by_id:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
            generation.users += 1
        return ServableHandle(self, generation, id)

    def available(self) -> list[ServableId]:
        with self._lock:
            return sorted(self._current.by_id)

    def replace(self, servables: Mapping[ServableId, Servable]) -> None:
        """New requests see `servables` at once; returns when the last handle of the old map is released."""
        with self._lock:
            old, self._current = self._current, _Generation(servables)
            while old.users and not self._closing:
                self._freed.wait()

    def close(self) -> None:
        """The server is ending: nobody waits for old handles any more."""
        with self._lock:
            self._closing = True
            self._freed.notify_all()

    def _release(self, generation: _Generation) -> None:
        with self._lock:
            generation.users -= 1
            if generation.users == 0:
                self._freed.notify_all()
