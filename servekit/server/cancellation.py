"""Whether anybody still waits for what a thread is computing: the edges say so, whoever queues work listens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Cancellation:
    """Of one request. Thread-safe; `cancel` may come at any time and more than once."""

    __slots__ = ("_callback", "_lock", "cancelled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: Callable[[], object] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def on_cancel(self, callback: Callable[[], object] | None) -> None:
        """`callback` is called once, in the thread that cancels, at once if that has happened; None takes it back."""
        with self._lock:
            if not self.cancelled:
                self._callback = callback
                return
        if callback is not None:
            callback()


_of_thread = threading.local()


def current() -> Cancellation | None:
    """That of the request which this thread answers; None outside of one."""
    cancellation: Cancellation | None = getattr(_of_thread, "cancellation", None)
    return cancellation


@contextlib.contextmanager
def answering(cancellation: Cancellation) -> Iterator[None]:
    """Makes it the `current` one of this thread."""
    _of_thread.cancellation = cancellation
    try:
        yield
    finally:
        _of_thread.cancellation = None
