"""One client that asks several ways, one request of each in turn: how long each takes beside the others.

The time of one and the same photo wanders by several milliseconds within seconds: rounds of a second cannot tell
a difference of one; requests that follow each other can.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

from servekit.bench.grpc_sender import GrpcSender
from servekit.bench.rest_sender import RestSender
from servekit.bench.traffic import Request

Way = TypeVar("Way", bound=Hashable)

_UNCOUNTED = 10
"""Requests of each way before: its connection, and what is prepared for the first ones."""


def latencies_s(ways: Mapping[Way, tuple[str, Request]], count: int, timeout_s: float) -> dict[Way, list[float]]:
    """`count` of each way, given as URL and request; in random order within each turn. Raises RuntimeError where a
    request fails."""
    return asyncio.run(_latencies_s(ways, count, timeout_s))


async def _latencies_s(ways: Mapping[Way, tuple[str, Request]], count: int, timeout_s: float) -> dict[Way, list[float]]:
    senders = {way: _sender(url, timeout_s) for way, (url, _) in ways.items()}
    found: dict[Way, list[float]] = {way: [] for way in ways}
    order = random.Random(0)  # noqa: S311
    try:
        for number in range(-_UNCOUNTED, count):
            for way in order.sample(list(ways), len(ways)):
                began = time.perf_counter()
                error, _ = await senders[way].send(ways[way][1])
                took = time.perf_counter() - began
                if error:
                    raise RuntimeError(f"{way}: {error}")
                if number >= 0:
                    found[way].append(took)
    finally:
        for sender in senders.values():
            await sender.close()
    return found


def _sender(url: str, timeout_s: float) -> GrpcSender | RestSender:
    return GrpcSender(url, timeout_s, clients=1) if url.startswith("grpc") else RestSender(url, timeout_s)
