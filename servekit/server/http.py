"""HTTP/1.1 on asyncio, with what clients can see of libevent's server: pages, headers, limits, order of answers.

A connection answers one request at a time; what is pipelined waits. Requests are handled by threads, for a prediction
blocks; the event loop only reads, waits and writes, so a slow client costs memory and no thread.
"""

from __future__ import annotations

import asyncio
import collections
import email.utils
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

from servekit.server.cancellation import Cancellation, answering

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = (1 << 31) - 1
MAX_PIPELINED = 16
"""Requests of one connection that wait; reading stops until they are answered."""

MAX_CONNECTIONS_WAITING = 1024
SHUTDOWN_CHECK_S = 0.02

METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
"""Others are answered with 501."""

METHODS_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


@dataclass(frozen=True, slots=True)
class Request:
    """`target` is what stood in the request line; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


Handler = Callable[[Request], Response]


def html_page(status: int) -> Response:
    """libevent's own answer to what never reaches a handler."""
    reason = HTTPStatus(status).phrase
    text = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), "text/html", close=True)


class HttpServer:
    """Listens from start() on; stop() refuses new connections and waits for running requests."""

    def __init__(
        self, handler: Handler, *, host: str, port: int, threads: int, timeout_s: float, timed_out: Handler
    ) -> None:
        """A request that is not answered after `timeout_s` gets the answer of `timed_out`; its thread goes on."""
        self._handler = handler
        self._timed_out = timed_out
        self._timeout_s = timeout_s
        self._address = (host, port)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        """Raises OSError when the address is taken."""
        _allow_many_files()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family, backlog=MAX_CONNECTIONS_WAITING)
        self._thread.start()

        async def listen() -> None:
            self._server = await self._loop.create_server(
                lambda: _Connection(self), sock=listener, backlog=MAX_CONNECTIONS_WAITING
            )

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result()

    def stop(self, grace_s: float) -> None:
        """Running requests get `grace_s` seconds; then every connection is closed."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._drain(grace_s), self._loop).result()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drain(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.close()
        deadline = self._loop.time() + grace_s
        while any(connection.busy for connection in self._connections) and self._loop.time() < deadline:
            for connection in list(self._connections):
                connection.close_when_idle()
            await asyncio.sleep(SHUTDOWN_CHECK_S)
        for connection in list(self._connections):
            connection.close()

    def handle(self, request: Request, answer: Callable[[Response], None]) -> Cancellation:
        """Runs the handler in a thread; `answer` is called once, in the event loop.

        What is cancelled before its turn never runs; what waits for a batch is taken out of it.
        """
        done = False
        cancellation = Cancellation()

        def finish(response: Response) -> None:
            nonlocal done
            if not done:
                done = True
                timer.cancel()
                answer(response)

        def work() -> None:
            if done or cancellation.cancelled:
                return
            with answering(cancellation):
                response = self._handler(request)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(finish, response)

        def give_up() -> None:
            if not done:
                finish(self._timed_out(request))
                cancellation.cancel()

        timer = self._loop.call_later(self._timeout_s, give_up)
        self._executor.submit(work)
        return cancellation

    def opened(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)


@dataclass(slots=True)
class _Incoming:
    """A request that is being read."""

    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    header_bytes: int = 0
    body: list[bytes] = field(default_factory=list)
    body_bytes: int = 0
    refused: int | None = None


class _Connection(asyncio.Protocol):
    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = _Incoming()
        self._waiting: collections.deque[tuple[Request | Response, bool, str]] = collections.deque()
        self._answering = False
        self._answered_request: Cancellation | None = None
        self._deaf = False
        self._closing = False
        self._congested = False

    @property
    def busy(self) -> bool:
        return self._answering or bool(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        if self._answered_request is not None:
            self._answered_request.cancel()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client does not read its answers: it gets no further ones until it does."""
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._refuse(501)
        except httptools.HttpParserError:
            self._refuse(self._incoming.refused or 400)

    # httptools calls these while it parses.

    def on_message_begin(self) -> None:
        self._incoming = _Incoming()

    def on_url(self, url: bytes) -> None:
        self._incoming.target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of a repeated header the first one counts.
        self._incoming.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self._parser.get_method() in METHODS_WITH_BODY and _body_has_no_end(self._incoming.headers):
            self._stop_parsing(400)
        expected = self._incoming.headers.get("expect")
        if expected is None or self._transport is None:
            return
        if expected.lower() == "100-continue":
            if not self.busy:  # else it would stand inside an answer that is still to come
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            self._stop_parsing(417)

    def on_body(self, body: bytes) -> None:
        self._incoming.body.append(body)
        self._incoming.body_bytes += len(body)
        if self._incoming.body_bytes > MAX_BODY_BYTES:
            self._stop_parsing(413)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        if method == "CONNECT":
            return
        incoming, self._incoming = self._incoming, _Incoming()
        version = self._parser.get_http_version()
        asked_to_close = "close" in incoming.headers.get("connection", "").lower()
        keep = self._parser.should_keep_alive() or ("upgrade" in incoming.headers and not asked_to_close)
        if method not in METHODS:
            self._enqueue(html_page(501), False, version)
            return
        target = incoming.target.decode("utf-8", "surrogateescape")
        self._enqueue(Request(method, target, incoming.headers, b"".join(incoming.body)), keep, version)

    def _count(self, size: int) -> None:
        self._incoming.header_bytes += size
        if self._incoming.header_bytes > MAX_HEADER_BYTES:
            self._stop_parsing(400)

    def _stop_parsing(self, status: int) -> None:
        self._incoming.refused = status
        raise ValueError("refused")  # out of the parser, as an HttpParserError

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1, as libevent does; after CONNECT it says nothing any more, as libevent does."""
        if self._parser.get_method() == b"CONNECT":
            self._deaf = True
            return
        self._parser = httptools.HttpRequestParser(self)
        if rest:
            self.data_received(rest)

    def _refuse(self, status: int) -> None:
        self._deaf = True
        self._enqueue(html_page(status), False, "1.1")

    def _enqueue(self, item: Request | Response, keep_alive: bool, version: str) -> None:
        self._waiting.append((item, keep_alive, version))
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
        self._next()

    def _next(self) -> None:
        if self._answering or self._congested or not self._waiting or self._transport is None:
            return
        item, keep_alive, version = self._waiting.popleft()
        if len(self._waiting) < MAX_PIPELINED:
            self._transport.resume_reading()
        self._answering = True
        if isinstance(item, Response):
            self._write(item, keep_alive, version, send_body=True)
            return
        send_body = item.method != "HEAD"
        self._answered_request = self._server.handle(
            item, lambda response: self._write(response, keep_alive, version, send_body=send_body)
        )

    def _write(self, response: Response, keep_alive: bool, version: str, *, send_body: bool) -> None:
        self._answering, self._answered_request = False, None
        if self._transport is None:
            return
        close = response.close or not keep_alive or self._closing
        self._transport.write(_serialized(response, close, version, keep_alive, send_body))
        if close:
            self.close()
        else:
            self._next()

    def close_when_idle(self) -> None:
        self._closing = True
        if not self.busy:
            self.close()

    def close(self) -> None:
        self._deaf = True
        self._waiting.clear()
        if self._transport is not None:
            self._transport.close()


def _body_has_no_end(headers: dict[str, str]) -> bool:
    """No length, and a Connection header that is not `close`: libevent refuses that."""
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    return not chunked and "content-length" not in headers and headers.get("connection", "close").lower() != "close"


def _serialized(response: Response, close: bool, version: str, keep_alive: bool, send_body: bool) -> bytes:
    reason = HTTPStatus(response.status).phrase if response.status != 499 else "Client Closed Request"
    lines = [f"HTTP/{version} {response.status} {reason}", f"Content-Type: {response.content_type}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines += [f"Date: {email.utils.formatdate(usegmt=True)}", f"Content-Length: {len(response.body)}"]
    if close and version != "1.0":
        lines.append("Connection: close")
    elif keep_alive and version == "1.0":
        lines.append("Connection: keep-alive")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + response.body if send_body else head


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: each idle connection holds one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
