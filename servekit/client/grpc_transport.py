"""Sends gRPC calls with grpcio; messages pass as bytes, so no generated stubs are needed."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import grpc
import grpc.aio

from servekit.client.address import too_late, unreachable
from servekit.client.deadline import Deadline
from servekit.client.grpc_wire import GrpcWire
from servekit.client.wire import Call, Wire
from servekit.errors import Code, StatusError

T = TypeVar("T")

_OPTIONS = (
    # Messages of any size; grpcio's own limit for answers is 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Proxies are for the Internet.
    ("grpc.enable_http_proxy", 0),
    # A server that comes back is found within a second; grpcio waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """`url` is grpc://HOST:PORT, or grpcs:// for TLS with the system's certificates; one channel, shared by threads.

    `channel` replaces the one that would be opened (own credentials, a Unix socket).
    """

    def __init__(self, url: str, channel: Any = None) -> None:
        self.wire: Wire = GrpcWire()
        self._url = url
        self._channel = channel or _open(grpc, url)

    def send(self, call: Call[T], deadline: Deadline) -> T:
        try:
            body = self._channel.unary_unary(call.target)(call.body, timeout=deadline.left_s())
        except grpc.RpcError as error:
            raise _status_error(self._url, error, deadline.timeout_s) from error
        return _answer(call, self._url, body)

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """`GrpcTransport` for asyncio."""

    def __init__(self, url: str, channel: Any = None) -> None:
        self.wire: Wire = GrpcWire()
        self._url = url
        self._channel = channel or _open(grpc.aio, url)

    async def send(self, call: Call[T], deadline: Deadline) -> T:
        try:
            body = await self._channel.unary_unary(call.target)(call.body, timeout=deadline.left_s())
        except grpc.RpcError as error:
            raise _status_error(self._url, error, deadline.timeout_s) from error
        return _answer(call, self._url, body)

    async def close(self) -> None:
        await self._channel.close()


def _open(library: Any, url: str) -> Any:
    """`library` is grpc or grpc.aio."""
    scheme, target = url.split("://", 1)
    if scheme == "grpcs":
        return library.secure_channel(target, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return library.insecure_channel(target, options=_OPTIONS)


def _answer(call: Call[T], url: str, body: bytes) -> T:
    try:
        return call.read(body)
    except ValueError as error:
        raise StatusError(Code.INTERNAL, f"{url} does not answer like a model server: {error}") from error


# The library's own texts for DEADLINE_EXCEEDED and UNAVAILABLE: no server said anything.
_OWN_DEADLINE = "Deadline Exceeded"
_CONNECTION = re.compile(r"connect|resolv|socket closed|connection reset|broken pipe|goaway", re.IGNORECASE)


def _status_error(url: str, error: Any, timeout_s: float) -> StatusError:
    code, details = Code(error.code().value[0]), error.details() or ""
    if code is Code.UNAVAILABLE and _CONNECTION.search(details):
        return unreachable(url, details)
    if code is Code.DEADLINE_EXCEEDED and details == _OWN_DEADLINE:
        return too_late(url, timeout_s)
    return StatusError(code, details)
