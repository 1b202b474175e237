"""So many things at a time: threads that do what they are given in its order, and whoever borrows the place of one."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable

Work = Callable[[], object]


class Workers:
    """At most `threads` of them, each started when there is work for it. What they are given must not raise. From any
    thread; nothing here waits."""

    def __init__(self, threads: int, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: collections.deque[Work] = collections.deque()
        self._free = threads
        self._started = 0
        self._idle = 0
        # Only what has a place is put here, so a thread takes it at once. A SimpleQueue wakes one without a line of
        # Python, where a Condition runs forty, in a cache that holds the model.
        self._given: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    @property
    def any_free(self) -> bool:
        """Whether what is submitted now is begun at once."""
        return self._free > 0

    def submit(self, work: Work) -> None:
        with self._lock:
            if not self._free:
                self._waiting.append(work)
                return
            self._free -= 1
            self._begin(work)

    def borrow(self) -> bool:
        """Takes the place of a thread that has nothing to do; whoever got it gives it back."""
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        with self._lock:
            if self._waiting:
                self._begin(self._waiting.popleft())
            else:
                self._free += 1

    def stop(self) -> None:
        """What waits is dropped; each thread ends after what it is doing."""
        with self._lock:
            self._waiting.clear()
            started, self._started, self._free = self._started, 0, 0
        for _ in range(started):
            self._given.put(None)

    def _begin(self, work: Work) -> None:
        """Of work that has a place. Under the lock."""
        if self._idle:
            self._idle -= 1
        else:
            try:
                threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
            except RuntimeError:  # the system has no more threads
                if not self._started:
                    raise
                self._free += 1
                self._waiting.appendleft(work)  # for one of those that are at work
                return
            self._started += 1
        self._given.put(work)

    def _run(self) -> None:
        while (work := self._given.get()) is not None:
            while work is not None:
                work()
                work = self._next()

    def _next(self) -> Work | None:
        """What may be done in the place that has become free; None: nothing, the place is free."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            self._idle += 1
            return None
