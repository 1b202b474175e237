"""Several batches in flight at once, each written as soon as it is answered."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from servekit.bulk.asking import Stopped
from servekit.bulk.lines import Line
from servekit.bulk.results import Results

GRACE_S = 5.0
"""How long answers under way are waited for after Ctrl-C or an error."""

_Event = list[Line] | BaseException | None
"""Lines that are on disk, what ended the run, or None when a thread has nothing more to do."""


@dataclass(slots=True)
class Run:
    """`ask` turns a batch of names into lines; it is called by `parallel` threads, as is `batches`, one at a time."""

    batches: Iterator[Sequence[str]]
    ask: Callable[[Sequence[str]], list[Line]]
    results: Results
    parallel: int
    stop: threading.Event
    notice: Callable[[str], None]
    interrupted: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _is_over: bool = field(default=False, init=False)
    # A SimpleQueue, because a signal handler may put into it at any moment.
    _events: queue.SimpleQueue[_Event] = field(default_factory=queue.SimpleQueue, init=False)

    def lines(self) -> Iterator[list[Line]]:
        """Each batch's lines after they are on disk, in the order of the answers.

        Ends early, with `interrupted` set, on Ctrl-C. Raises what ended the
        run, after the answers under way are written.
        """
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.parallel)]
        running, error = len(threads), None
        with _ctrl_c(self._interrupt):
            for thread in threads:
                thread.start()
            try:
                while running:
                    try:
                        event = self._events.get(timeout=GRACE_S if self.stop.is_set() else None)
                    except queue.Empty:
                        break
                    if event is None:
                        running -= 1
                    elif isinstance(event, KeyboardInterrupt):
                        if self.interrupted:
                            break
                        self.interrupted = True
                        self.notice(
                            f"waiting up to {GRACE_S:.0f} s for answers under way, Ctrl-C again to leave at once"
                        )
                    elif isinstance(event, BaseException):
                        error = error or event
                    else:
                        yield event
            finally:
                self.stop.set()
                with self._lock:
                    self._is_over = True
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, list):
                yield event
        if error is not None:
            raise error

    def _interrupt(self) -> None:
        self.stop.set()
        self._events.put(KeyboardInterrupt())

    def _work(self) -> None:
        try:
            while not self.stop.is_set():
                with self._lock:
                    batch = next(self.batches, None)
                if batch is None:
                    break
                lines = self.ask(batch)
                with self._lock:
                    if self._is_over:
                        break
                    self.results.append(lines)
                self._events.put(lines)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by lines()
            self.stop.set()
            self._events.put(error)
        finally:
            self._events.put(None)


@contextmanager
def _ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` instead of raising KeyboardInterrupt; leaves a SIGINT alone that the caller's shell ignores."""

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        act()

    before = signal.getsignal(signal.SIGINT)
    is_ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if is_ours:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)
