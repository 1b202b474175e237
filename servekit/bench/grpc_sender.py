"""gRPC calls as bytes, on several channels."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import grpc.aio

from servekit.bench.traffic import Request

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
)
CHANNELS = 8
"""HTTP/2 connections: one alone is limited to what a single reader on either side can do."""


class GrpcSender:
    """`send` returns (error or None, bytes received). Each client of a closed loop has a connection, up to CHANNELS,
    which is what an open loop has."""

    def __init__(self, url: str, timeout_s: float, clients: int | None = None) -> None:
        self._timeout_s = timeout_s
        scheme, target = url.split("://", 1)
        self._channels: list[Any] = [
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=_OPTIONS)
            if scheme == "grpcs"
            else grpc.aio.insecure_channel(target, options=_OPTIONS)
            for _ in range(min(clients or CHANNELS, CHANNELS))
        ]
        self._methods: dict[str, itertools.cycle[Any]] = {}

    async def send(self, request: Request) -> tuple[str | None, int]:
        if request.target not in self._methods:
            self._methods[request.target] = itertools.cycle(
                [channel.unary_unary(request.target) for channel in self._channels]
            )
        try:
            answer: bytes = await next(self._methods[request.target])(request.body, timeout=self._timeout_s)
        except grpc.RpcError as error:
            return f"gRPC {error.code().name}", 0
        return None, len(answer)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
