"""So many things at a time: threads that do what they are given in its order, and whoever borrows the place of one."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable


class Workers:
    """`threads` of them, from start() on. What they are given must not raise. From any thread; nothing here waits."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._lock = threading.Lock()
        self._something_to_do = threading.Condition(self._lock)
        self._work: collections.deque[Callable[[], object]] = collections.deque()
        self._free = threads
        self._stopped = False

    def start(self) -> None:
        for number in range(self._threads):
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[], object]) -> None:
        with self._lock:
            self._work.append(work)
            self._something_to_do.notify()

    def borrow(self) -> bool:
        """Takes the place of a thread that has nothing to do; whoever got it gives it back."""
        with self._lock:
            if self._work or not self._free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._free += 1
            if self._work:
                self._something_to_do.notify()

    def stop(self) -> None:
        """What waits is dropped; each thread ends after what it is doing."""
        with self._lock:
            self._stopped = True
            self._work.clear()
            self._something_to_do.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # what it holds is not kept until the next one comes
            self.give_back()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            while not self._stopped and not (self._work and self._free):
                self._something_to_do.wait()
            if self._stopped:
                return None
            self._free -= 1
            return self._work.popleft()
