"""One connection's socket: reads into a protocol, and keeps what a slow client does not take yet."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from servekit.server.event_loop import EventLoop

LEAST_READ_BYTES = 1 << 14
MOST_READ_BYTES = 1 << 20
MOST_DRAINED_READS = 16
MOST_UNWRITTEN_BYTES = 1 << 16
"""Beyond it a connection is told not to write."""


class SocketProtocol(Protocol):
    """What a connection does; all of it is called by the loop."""

    def connection_made(self, transport: Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Transport:
    """One connection's socket. Used in the loop."""

    def __init__(self, loop: EventLoop, connection: socket.socket, protocol: SocketProtocol) -> None:
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self._socket = connection
        self._protocol = protocol
        self._read_bytes = LEAST_READ_BYTES
        self._unwritten: collections.deque[memoryview] = collections.deque()
        self._unwritten_bytes = 0
        self._reading = True
        self._congested = False
        self._closing = False
        self._closed = False
        loop.watch(connection, selectors.EVENT_READ, self._on_events)
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        """Sends it, now or when the client reads."""
        if self._closed or self._closing:
            return
        rest = memoryview(data)
        if not self._unwritten:
            sent = self._send(rest)
            if sent is None or sent == len(data):
                return
            rest = rest[sent:]
        self._unwritten.append(rest)
        self._unwritten_bytes += len(rest)
        self._watch()
        if self._unwritten_bytes > MOST_UNWRITTEN_BYTES and not self._congested:
            self._congested = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Reads no more; closes when everything is written."""
        if not self._closing:
            self._closing = True
            if self._unwritten:
                self._watch()
            else:
                self._end()

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._watch()

    def _watch(self) -> None:
        if not self._closed:
            reading = selectors.EVENT_READ if self._reading and not self._closing else 0
            writing = selectors.EVENT_WRITE if self._unwritten else 0
            self._loop.watch(self._socket, reading | writing, self._on_events)

    def _on_events(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and not self._closed:
            self._write_on()
        if events & selectors.EVENT_READ and self._reading and not self._closing and not self._closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end()
            return
        if not data:
            self.close()
            return
        if len(data) == self._read_bytes:
            self._read_bytes = min(4 * self._read_bytes, MOST_READ_BYTES)
        elif len(data) < LEAST_READ_BYTES:
            self._read_bytes = LEAST_READ_BYTES
        self._protocol.data_received(data)

    def _send(self, data: memoryview) -> int | None:
        """How much could be written; None: the client is gone."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._end()
            return None

    def _write_on(self) -> None:
        while self._unwritten:
            first = self._unwritten.popleft()
            sent = self._send(first)
            if sent is None:
                return
            self._unwritten_bytes -= sent
            if sent < len(first):
                self._unwritten.appendleft(first[sent:])
                break
        if self._congested and self._unwritten_bytes <= MOST_UNWRITTEN_BYTES // 4:
            self._congested = False
            self._protocol.resume_writing()
        if not self._unwritten:
            if self._closing:
                self._end()
            else:
                self._watch()

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = self._closing = True
        self._unwritten.clear()
        with contextlib.suppress(OSError):
            # Unread bytes would make the close a reset, which may cost the client the answer it has not read yet.
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(MOST_DRAINED_READS):
                if not self._socket.recv(MOST_READ_BYTES):
                    break
        self._loop.closed(self._socket)
        self._loop.call_soon(self._protocol.connection_lost)
