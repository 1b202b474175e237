"""Threads that do what they are given, in the order in which it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """`threads` of them, from start() on. What they are given must not raise."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def start(self) -> None:
        for number in range(self._threads):
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[], object]) -> None:
        """From any thread; returns at once."""
        self._work.put(work)

    def stop(self) -> None:
        """Each thread ends after what was submitted before."""
        for _ in range(self._threads):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # what it holds is not kept until the next one comes
