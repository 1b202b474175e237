"""One client's connection on the event loop: reads a request, has it answered, writes, reads the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from servekit.server.cancellation import Cancellation
from servekit.server.http_request import RefusedError, Request, RequestReader
from servekit.server.http_response import Response, html_page, serialized
from servekit.server.transport import Transport

MAX_UNREAD_BYTES = 1 << 20
"""What a client may send while it waits for an answer; beyond it, its connection is not read."""

METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
"""Others are answered with 501."""

Answer = Callable[[Response], None]


class Answering(Protocol):
    """Who answers requests."""

    def handle(self, request: Request, answer: Answer) -> Cancellation:
        """Calls back once, in the event loop, not at once; what it returns is cancelled when the client leaves."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> None: ...


class Connection:
    """A connection answers one request at a time, in order; a client that does not read gets no further answers."""

    def __init__(
        self, server: Answering, opened: Callable[[Connection], None], closed: Callable[[Connection], None]
    ) -> None:
        self._server = server
        self._opened = opened
        self._closed = closed
        self._transport: Transport | None = None
        self._reader = RequestReader()
        self._answering = False
        self._answered_request: Cancellation | None = None
        self._deaf = False
        self._closing = False
        self._congested = False

    @property
    def busy(self) -> bool:
        return self._answering

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._opened(self)

    def connection_lost(self) -> None:
        self._transport = None
        if self._answered_request is not None:
            self._answered_request.cancel()
        self._closed(self)

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._reader.feed(data)
        if not self._answering:
            self._next()
        elif self._reader.unread_bytes > MAX_UNREAD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def close_when_idle(self) -> None:
        self._closing = True
        if not self.busy:
            self.close()

    def close(self) -> None:
        self._deaf = True
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._answering or self._congested or self._deaf or self._transport is None:
            return
        try:
            request = self._reader.next_request()
        except RefusedError as refused:
            self._deaf = self._answering = True
            self._write(html_page(refused.status), refused.request)
            return
        self._transport.resume_reading()
        if request is None:
            if self._reader.wants_continue:
                self._reader.wants_continue = False
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self._answering = True
        if request.method not in METHODS:
            self._write(html_page(501), request)
        else:
            self._answered_request = self._server.handle(request, lambda response: self._write(response, request))

    def _write(self, response: Response, request: Request) -> None:
        self._answering, self._answered_request = False, None
        if self._transport is None:
            return
        data, closes = serialized(response, request, closing=self._closing)
        self._transport.write(data)
        if closes:
            self.close()
        elif self._reader.unread_bytes:
            self._server.call_soon(self._next)
