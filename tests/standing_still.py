"""How long this machine did not run at all: a virtual machine's host takes its processors away for up to seconds."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_TICK_S = 0.02


class StandingStill:
    """`with StandingStill() as still:` `still.seconds` is what a clock of this process missed meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick)

    def __enter__(self) -> StandingStill:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        last = time.monotonic()
        while not self._over.wait(_TICK_S):
            now = time.monotonic()
            if now - last > 3 * _TICK_S:
                self.seconds += now - last - _TICK_S
            last = now
