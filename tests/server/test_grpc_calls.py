"""The call server itself: it can be stopped at any moment."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import grpc
import pytest

from servekit.server import grpc_calls
from servekit.server.grpc_calls import CallServer, Method
from tests.conftest import free_port

ECHO = "/test.Echo/Say"


class SlowToShutDown:
    """gRPC's server, whose shutdown() returns late: the event that all is over is then there before."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._inside = False
        self.destroyed_inside: bool | None = None

    def shutdown(self, *arguments: Any) -> None:
        self._inside = True
        self._server.shutdown(*arguments)
        time.sleep(0.3)
        self._inside = False

    def destroy(self) -> None:
        self.destroyed_inside = self._inside
        self._server.destroy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def test_the_core_is_not_destroyed_while_it_is_still_told_to_shut_down() -> None:
    """One stop in ten after some load was a segmentation fault."""
    port = free_port()
    server = CallServer({ECHO: Method(lambda data: data)}, threads=2, options=[])
    core = SlowToShutDown(server._server)
    server._server = core
    server.listen(f"127.0.0.1:{port}")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary(ECHO)(b"hello", timeout=10) == b"hello"
    began = time.monotonic()
    server.stop(5)
    assert core.destroyed_inside is False
    assert time.monotonic() - began < 2


def test_calls_that_arrive_while_the_server_ends_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which clients try again elsewhere; gRPC's core would cancel them, one of each client that keeps calling."""
    monkeypatch.setattr(grpc_calls, "REFUSING_S", 1.0)  # each of these clients gets its turn in it
    port = free_port()
    server = CallServer({ECHO: Method(lambda data: data)}, threads=2, options=[])
    server.listen(f"127.0.0.1:{port}")
    server.start()
    errors: list[grpc.RpcError] = []
    stopped = threading.Event()

    def call_until_it_is_gone(channel: grpc.Channel) -> None:
        while len(errors) < 1000:
            try:
                channel.unary_unary(ECHO)(b"hello", timeout=10)
            except grpc.RpcError as error:
                errors.append(error)
                if "The server is ending." not in error.details():
                    return
                stopped.wait(20)

    with contextlib.ExitStack() as channels:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        opened = [channels.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", alone)) for _ in range(8)]
        clients = [threading.Thread(target=call_until_it_is_gone, args=(channel,)) for channel in opened]
        for client in clients:
            client.start()
        time.sleep(0.2)
        server.stop(5)
        stopped.set()
        for client in clients:
            client.join(20)
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert sum(error.details() == "The server is ending." for error in errors) >= 8
