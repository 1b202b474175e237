"""Sockets on the event loop: large answers, slow readers, clients that leave, the end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servekit.server.event_loop import EventLoop
from servekit.server.transport import Transport


class Echo:
    """Sends back what it gets, a thousand times for what begins with `x`; closes after `end`."""

    made: list[Echo]

    def __init__(self) -> None:
        self.made.append(self)
        self.transport: Transport | None = None
        self.events: list[str] = []

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data * 1000 if data[:1] == b"x" else data)
        if data.endswith(b"end"):
            self.transport.close()
        if data == b"raise":
            raise ValueError("on purpose")

    def connection_lost(self) -> None:
        self.events.append("lost")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    Echo.made = []
    loop = EventLoop("test")
    yield loop
    loop.stop()


@pytest.fixture
def connect(loop: EventLoop) -> Iterator[Callable[[], socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    loop.start(listener, Echo)
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(listener.getsockname(), timeout=10))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    loop.call(loop.stop_listening)


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def read(connection: socket.socket, size: int) -> int:
    """How many of `size` bytes come before the other side closes."""
    got = 0
    while got < size and (data := connection.recv(1 << 16)):
        got += len(data)
    return got


def test_a_client_that_reads_late_gets_everything_and_holds_up_nobody(connect: Callable[[], socket.socket]) -> None:
    late, other = connect(), connect()
    late.sendall(b"x" * 16_000)
    assert until(lambda: bool(Echo.made) and Echo.made[0].events == ["pause"])
    other.sendall(b"hello")
    assert other.recv(100) == b"hello"
    assert read(late, 16_000_000) == 16_000_000
    assert until(lambda: Echo.made[0].events == ["pause", "resume"])


def test_what_is_written_before_a_close_arrives(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"x" * 10_000 + b"end")
    assert until(lambda: bool(Echo.made) and "pause" in Echo.made[0].events)
    assert read(connection, 1 << 30) == 10_003_000
    assert until(lambda: Echo.made[0].events[-1] == "lost")


def test_a_client_that_leaves_while_it_is_written_to_is_lost_once(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"x" * 16_000)
    assert until(lambda: bool(Echo.made) and Echo.made[0].events == ["pause"])
    connection.close()
    assert until(lambda: Echo.made[0].events == ["pause", "lost"])


def test_a_connection_that_is_not_read_keeps_what_comes(loop: EventLoop, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"1")
    assert connection.recv(10) == b"1"
    transport = Echo.made[0].transport
    assert transport is not None
    loop.call(transport.pause_reading)
    connection.sendall(b"2")
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(10)
    loop.call(transport.resume_reading)
    connection.settimeout(10)
    assert connection.recv(10) == b"2"


def test_what_raises_is_logged_and_the_loop_goes_on(
    connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect()
    connection.sendall(b"raise")
    assert connection.recv(10) == b"raise"
    other = connect()
    other.sendall(b"hello")
    assert other.recv(10) == b"hello"
    assert "a connection could not be handled" in caplog.text


def test_timers_run_in_their_order_unless_removed(loop: EventLoop, connect: Callable[[], socket.socket]) -> None:
    connect()
    ran: list[str] = []
    done = threading.Event()

    def add() -> None:
        for name in ("a", "b", "c"):
            loop.add_timer(name, 0.05, lambda name=name: ran.append(name))  # type: ignore[misc]
        loop.add_timer("d", 0.05, done.set)
        loop.remove_timer("b")

    loop.call(add)
    assert done.wait(20)
    assert ran == ["a", "c"]


def test_calls_from_many_threads_are_all_made(loop: EventLoop, connect: Callable[[], socket.socket]) -> None:
    connect()
    counted: list[int] = []

    def count() -> None:
        for number in range(500):
            loop.call_soon(lambda number=number: counted.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loop.call(lambda: len(counted)) == 4000
