"""REST requests over connections that stay open, with as little Python for each as can be."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from servekit.bench.traffic import Request

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class RestSender:
    """`send` returns (error or None, bytes received); raises OSError and asyncio.TimeoutError.

    Connections are opened as they are needed and used again.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._authority = parts.netloc
        self._idle: deque[_Connection] = deque()
        self._heads: dict[Request, bytes] = {}

    async def send(self, request: Request) -> tuple[str | None, int]:
        connection = await self._connection()
        status, received = await connection.exchange(self._bytes(request), self._timeout_s)
        if connection.usable:
            self._idle.append(connection)
        return (None if status == 200 else f"HTTP {status}"), received

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: _Connection(loop), self._host, self._port, ssl=self._tls)
        return protocol

    def _bytes(self, request: Request) -> bytes:
        """Head and body; the same few requests are sent again and again."""
        if request not in self._heads:
            method, path = request.target.split(" ", 1)
            head = f"{method} {path} HTTP/1.1\r\nHost: {self._authority}\r\nContent-Type: application/json\r\n"
            self._heads[request] = f"{head}Content-Length: {len(request.body)}\r\n\r\n".encode() + request.body
        return self._heads[request]


class _Connection(asyncio.Protocol):
    """One exchange at a time. Reads answers with Content-Length (TF Serving's) and chunked ones (a gateway's)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, int]] = loop.create_future()
        self._answer.cancel()
        self._timer: asyncio.TimerHandle | None = None
        self._data = b""
        self._wanted = -1
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def exchange(self, data: bytes, timeout_s: float) -> asyncio.Future[tuple[int, int]]:
        """Status and bytes received."""
        self._data, self._wanted = b"", -1
        self._answer = self._loop.create_future()
        self._timer = self._loop.call_later(timeout_s, self._fail, asyncio.TimeoutError())
        self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        if self._wanted < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._data[: end + 2]
            if length := _LENGTH.search(head):
                self._wanted = end + 4 + int(length[1])
            elif not _CHUNKED.search(head):
                self._fail(ConnectionError("an answer without length"))
                return
        if len(self._data) >= self._wanted if self._wanted >= 0 else self._data.endswith(b"0\r\n\r\n"):
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._fail(error or ConnectionError("connection closed"))

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        if self._is_waiting():
            if _CLOSE.search(self._data[: self._data.find(b"\r\n\r\n") + 2]):
                self.close()
            self._answer.set_result((int(self._data[9:12]), len(self._data)))

    def _fail(self, error: BaseException) -> None:
        """For good: the answer may still come, and would be taken for the next one's."""
        if self._is_waiting():
            self.close()
            self._answer.set_exception(error)

    def _is_waiting(self) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        return not self._answer.done()
