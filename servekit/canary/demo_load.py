"""Steady requests without a label, over REST and gRPC, and who answered each of them."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from servekit.bench.traffic import Request

LABEL = "x-servekit-label"
"""Header in which the gateway says which label answered."""
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Failure:
    """`label`: who answered with the error; empty where nobody did."""

    protocol: str
    label: str
    error: str


@dataclass(slots=True)
class Counts:
    """`answered`: good answers by label."""

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @property
    def lost(self) -> list[Failure]:
        """Failures that are not a canary's own."""
        return [failure for failure in self.failures if failure.label != "canary"]


class Load:
    """`rate` requests a second from threads, half of them REST, until the context ends."""

    def __init__(
        self, rest: str, grpc_address: str, requests: dict[str, Sequence[Request]], rate: float, threads: int = 4
    ) -> None:
        self._rest, self._grpc, self._requests = rest, grpc_address, requests
        self._pause = threads / rate
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts = Counts()
        self._threads = [
            threading.Thread(target=self._rest_client if number % 2 else self._grpc_client, args=(number,))
            for number in range(threads)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> Counts:
        """What came since the last time."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts

    def _rest_client(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._rest, timeout=TIMEOUT_S)
        for request in self._paced("REST", number):
            path = request.target.removeprefix("POST ")
            try:
                connection.request("POST", path, request.body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body, label = answer.read(), answer.headers.get(LABEL, "")
                self._record("REST", label, None if answer.status == 200 else body[:200].decode(errors="replace"))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._record("REST", "", f"{type(error).__name__}: {error}")
        connection.close()

    def _grpc_client(self, number: int) -> None:
        with grpc.insecure_channel(self._grpc) as channel:
            methods: dict[str, Any] = {}
            for request in self._paced("gRPC", number):
                method = methods.setdefault(request.target, channel.unary_unary(request.target))
                try:
                    _, call = method.with_call(request.body, timeout=TIMEOUT_S)
                    self._record("gRPC", _label(call), None)
                except grpc.RpcError as error:
                    self._record("gRPC", _label(error), f"{error.code().name}: {error.details()}")

    def _paced(self, protocol: str, number: int) -> Any:
        requests, due = self._requests[protocol], time.monotonic()
        place = number
        while not self._stop.is_set():
            yield requests[place % len(requests)]
            place += 1
            due = max(due + self._pause, time.monotonic() - 0.2)  # after a stall no rush
            if (wait := due - time.monotonic()) > 0:
                self._stop.wait(wait)

    def _record(self, protocol: str, label: str, error: str | None) -> None:
        with self._lock:
            self._counts.sent += 1
            if error is None:
                self._counts.answered[label] += 1
            else:
                self._counts.failures.append(Failure(protocol, label, error))


def _label(call: Any) -> str:
    for metadata in (call.initial_metadata(), call.trailing_metadata()):
        for key, value in metadata or ():
            if key == LABEL:
                return str(value)
    return ""
