"""One thread polls and answers what is quick itself; when it stays away too long, another thread polls on.

Handing a request to another thread and its answer back costs two to four times what a small prediction takes, most of
it in waiting for the interpreter lock. So what is known to be quick is answered where it was read; should it not be
quick this time, nobody else waits for it longer than TAKE_OVER_S.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

QUICK_S = 0.001
"""What takes longer is handed over the next time."""

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 60.0
"""A kind of request that was not quick is tried again after a pause, which doubles each time up to this."""

MAX_KINDS = 1000

TAKE_OVER_S = 0.005
_AWAKE_S = 0.25
"""For so long after the last absence somebody looks for one that lasts."""


class Quick:
    """Which kinds of request are answered at once, by how long they took. Used by the thread that polls."""

    def __init__(self) -> None:
        self._pauses: dict[Hashable, tuple[float, float]] = {}

    def expected(self, kind: Hashable, now: float) -> bool:
        """Whether a request of this kind is worth a try: yes, unless one was not quick a short time ago."""
        pause = self._pauses.get(kind)
        return pause is None or now >= pause[0]

    def took(self, kind: Hashable, seconds: float, now: float) -> None:
        """A request of this kind was tried."""
        if seconds <= QUICK_S:
            self._pauses.pop(kind, None)
            return
        if len(self._pauses) >= MAX_KINDS:
            self._pauses.clear()
        _, pause = self._pauses.get(kind, (0.0, FIRST_PAUSE_S / 2))
        pause = min(2 * pause, LONGEST_PAUSE_S)
        self._pauses[kind] = now + pause, pause


class Polling:
    """Calls `turn` again and again in one thread, until it returns False."""

    def __init__(self, turn: Callable[[], bool], name: str) -> None:
        """`turn` waits for events and deals with them. Around what may take long it calls leave() and back()."""
        self._turn = turn
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._left: float | None = None
        self._watching = threading.Event()
        self._ended = False

    def start(self) -> None:
        with self._lock:
            self._start()
        threading.Thread(target=self._watch, name=f"{self._name}-watch", daemon=True).start()

    def join(self, seconds: float | None = None) -> None:
        """Waits until `turn` has returned False, or so long."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (thread := self._thread) is not None and thread.is_alive():
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
            if deadline is not None and time.monotonic() >= deadline:
                return

    @property
    def mine(self) -> bool:
        """Whether the calling thread is the one that polls."""
        return self._thread is threading.current_thread()

    def leave(self) -> None:
        """The thread that polls is about to do something that may take long."""
        self._left = time.monotonic()
        if not self._watching.is_set():
            self._watching.set()

    def back(self) -> bool:
        """Whether the thread that left is still the one that polls; if not, it may only end."""
        with self._lock:
            if self.mine:
                self._left = None
                return True
            return False

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._poll, name=self._name, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while self.mine:
            if not self._turn():
                self._ended = True
                self._watching.set()
                return

    def _watch(self) -> None:
        seen = 0.0
        while not self._ended:
            self._watching.wait()
            time.sleep(TAKE_OVER_S)
            now, left = time.monotonic(), self._left
            if left is not None:
                seen = now
                if now - left >= TAKE_OVER_S:
                    self._take_over(left)
            elif now - seen >= _AWAKE_S:
                self._watching.clear()
                seen = now
                if self._left is not None:  # since just now: leave() saw that somebody watches
                    self._watching.set()

    def _take_over(self, left: float) -> None:
        with self._lock:
            if self._left == left and not self._ended:
                self._left = None
                self._start()
