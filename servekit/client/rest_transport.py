"""Sends REST calls with httpx."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import httpx

from servekit.client.address import not_connected, too_late, unreachable
from servekit.client.deadline import Deadline
from servekit.client.rest_wire import RestWire, error_of
from servekit.client.wire import Call, Wire
from servekit.errors import Code, StatusError

T = TypeVar("T")


class RestTransport:
    """`url` is http(s)://HOST:PORT; connections are kept and shared between threads.

    `transport` replaces httpx's own (a Unix socket, an in-process application).
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.wire: Wire = RestWire()
        self._url = url
        self._client = httpx.Client(
            transport=transport, trust_env=False, verify=_is_encrypted(url), headers=_HEADERS, limits=_LIMITS
        )

    def send(self, call: Call[T], deadline: Deadline) -> T:
        method, path = call.target.split(" ", 1)
        try:
            left_s = deadline.left_s()
            with self._client.stream(method, self._url + path, content=call.body, timeout=left_s) as response:
                parts = []
                for part in response.iter_bytes():
                    if deadline.is_over():  # httpx's timeout starts again with every part
                        raise too_late(self._url, deadline.timeout_s)
                    parts.append(part)
        except httpx.HTTPError as error:
            raise _unanswered(self._url, error, deadline.timeout_s) from error
        return _answer(call, self._url, response.status_code, b"".join(parts))

    def close(self) -> None:
        self._client.close()


class AsyncRestTransport:
    """`RestTransport` for asyncio."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.wire: Wire = RestWire()
        self._url = url
        self._client = httpx.AsyncClient(
            transport=transport, trust_env=False, verify=_is_encrypted(url), headers=_HEADERS, limits=_LIMITS
        )

    async def send(self, call: Call[T], deadline: Deadline) -> T:
        method, path = call.target.split(" ", 1)
        request = self._client.request(method, self._url + path, content=call.body, timeout=None)
        try:
            response = await asyncio.wait_for(request, deadline.left_s())
        except asyncio.TimeoutError:
            raise too_late(self._url, deadline.timeout_s) from None
        except httpx.HTTPError as error:
            raise _unanswered(self._url, error, deadline.timeout_s) from error
        return _answer(call, self._url, response.status_code, response.content)

    async def close(self) -> None:
        await self._client.aclose()


# A model server is addressed directly, not through the proxies that the environment names for the Internet.
_HEADERS = {"Content-Type": "application/json"}
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)


def _is_encrypted(url: str) -> bool:
    """Reading the certificate store costs 20 ms, which plain http need not pay."""
    return url.startswith("https:")


def _answer(call: Call[T], url: str, status: int, body: bytes) -> T:
    if status != 200:
        raise error_of(status, body)
    try:
        return call.read(body)
    except (ValueError, KeyError, TypeError) as error:
        raise StatusError(Code.INTERNAL, f"{url} does not answer like a model server: {error}") from error


def _unanswered(url: str, error: httpx.HTTPError, timeout_s: float) -> StatusError:
    if isinstance(error, httpx.ConnectTimeout):
        return not_connected(url, timeout_s)
    if isinstance(error, httpx.TimeoutException):
        return too_late(url, timeout_s)
    return unreachable(url, str(error) or type(error).__name__)
