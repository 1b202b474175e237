"""Sockets of one server on one thread at a time: accepts, reads, writes, and runs what it is asked to.

Not asyncio's loop, for that one is tied to its thread: here another thread goes on when a callback that was expected to
be quick is not (`polling`).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import logging
import queue
import selectors
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from servekit.server.polling import Polling
from servekit.server.transport import SocketProtocol, Transport

logger = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 1.0
"""After running out of files or memory, unless a connection is closed before."""

_OUT_OF = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_Value = TypeVar("_Value")


class EventLoop:
    """Serves the connections of one listening socket from start() until stop()."""

    def __init__(self, name: str) -> None:
        self.polling = Polling(self._turn, name)
        self._selector = selectors.DefaultSelector()
        self._ready: collections.deque[Callable[[], object]] = collections.deque()
        self._asleep = False
        self._waker, self._wakened = socket.socketpair()
        self._listener: socket.socket | None = None
        self._protocol: Callable[[], SocketProtocol] | None = None
        self._accepting_from: float | None = None
        self._timers: dict[object, tuple[float, Callable[[], object]]] = {}
        self._stopped = False

    def start(self, listener: socket.socket, protocol: Callable[[], SocketProtocol]) -> None:
        """`protocol` makes one for each connection that `listener` accepts."""
        for end in (listener, self._waker, self._wakened):
            end.setblocking(False)
        self._listener, self._protocol = listener, protocol
        self._selector.register(self._wakened, selectors.EVENT_READ, self._on_waking)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self.polling.start()

    def stop(self) -> None:
        """The loop's thread ends; what is still open is closed."""
        self._stopped = True
        self.call_soon(lambda: None)
        self.polling.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._waker.close()
        self._selector.close()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """From any thread."""
        self._ready.append(callback)
        if self._asleep:
            self._asleep = False
            with contextlib.suppress(OSError):  # full: then it is awake
                self._waker.send(b"\0")

    def call(self, function: Callable[[], _Value]) -> _Value:
        """Runs it in the loop and waits for what it returns. From any other thread; it must not raise."""
        answer: queue.SimpleQueue[_Value] = queue.SimpleQueue()
        self.call_soon(lambda: answer.put(function()))
        return answer.get()

    def add_timer(self, key: object, seconds: float, callback: Callable[[], object]) -> None:
        """In the loop. `seconds` must be the same for all timers: they are looked at in the order of their making."""
        self._timers[key] = time.monotonic() + seconds, callback

    def remove_timer(self, key: object) -> None:
        self._timers.pop(key, None)

    def stop_listening(self) -> None:
        """In the loop."""
        if self._listener is not None:
            self._accepting_from = None
            self._unregister(self._listener)
            self._listener.close()
            self._listener = None

    def watch(self, connection: socket.socket, events: int, on_events: Callable[[int], None]) -> None:
        """In the loop; no events: they are of no interest for now."""
        if connection.fileno() not in self._selector.get_map():
            if events:
                self._selector.register(connection, events, on_events)
        elif events:
            self._selector.modify(connection, events, on_events)
        else:
            self._unregister(connection)

    def closed(self, connection: socket.socket) -> None:
        """A connection ends: its file is free for the next one."""
        self._unregister(connection)
        connection.close()
        if self._accepting_from is not None:
            self._accept_again()

    def _turn(self) -> bool:
        if self._stopped:
            return False
        self._asleep = True
        timeout = 0 if self._ready else self._until_next_timer()
        events = self._selector.select(timeout)
        self._asleep = False
        for key, mask in events:
            if key.fileobj.fileno() >= 0:  # type: ignore[union-attr]  # closed by one of the others
                self._guarded(functools.partial(key.data, mask))
        self._run_timers()
        for _ in range(len(self._ready)):
            if not self.polling.mine:
                break
            with contextlib.suppress(IndexError):
                self._guarded(self._ready.popleft())
        return True

    def _guarded(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            logger.exception("a connection could not be handled")

    def _until_next_timer(self) -> float | None:
        deadlines = [] if self._accepting_from is None else [self._accepting_from]
        if self._timers:
            deadlines.append(next(iter(self._timers.values()))[0])
        return max(min(deadlines) - time.monotonic(), 0) if deadlines else None

    def _run_timers(self) -> None:
        if not self._timers and self._accepting_from is None:
            return
        now = time.monotonic()
        while self._timers:
            key, (deadline, callback) = next(iter(self._timers.items()))
            if deadline > now:
                break
            del self._timers[key]
            self._guarded(callback)
        if self._accepting_from is not None and now >= self._accepting_from:
            self._accept_again()

    def _on_waking(self, _events: int) -> None:
        self._wakened.recv(4096)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        assert self._protocol is not None
        for _ in range(64):  # the others have their turn too
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                logger.warning("no connection can be accepted for now: %s", error.strerror)
                self._unregister(self._listener)
                self._accepting_from = time.monotonic() + ACCEPT_AGAIN_S
                return
            Transport(self, connection, self._protocol())

    def _accept_again(self) -> None:
        assert self._listener is not None
        self._accepting_from = None
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _unregister(self, end: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(end)
