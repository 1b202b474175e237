"""Clients that mean no good, or do not know better: the server answers them, forgets them and serves the others."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import RunningServer, Serve

PATH = "/v1/models/half_plus_two:predict"
PIECES = [b"{", b"}", b"[", b"]", b":", b",", b'"instances"', b'"inputs"', b'"b64"', b'"x"', b'"\\ud83d"', b'"\xff"']
PIECES += [b"1", b"-0", b"1e999", b"NaN", b"null", b"true", b"1" * 400, b" ", b"\0", b"\\", b'"', b'{"x": 1}', b"[[1]]"]


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve("--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two")


@pytest.fixture(autouse=True)
def _still_serving(server: RunningServer) -> Iterator[None]:
    yield
    assert server.process.poll() is None
    answer = httpx.post(server.rest + PATH, content=b'{"instances": [1.0]}', timeout=10)
    assert answer.json() == {"predictions": [3.5]}
    assert "Traceback" not in server.log_text()


def test_heaps_of_json_pieces_get_an_answer(server: RunningServer) -> None:
    choose = random.Random(1)
    with httpx.Client(base_url=server.rest, timeout=10) as client:
        for _ in range(400):
            body = b'{"instances": ' + b"".join(choose.choices(PIECES, k=choose.randint(0, 12)))
            status = client.post(PATH, content=body).status_code
            assert status in (200, 400)


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'{"instances":[', b'"\\u'])
def test_deep_and_unended_documents_are_refused(server: RunningServer, unit: bytes) -> None:
    for count in (900, 990, 1000, 100_000):
        body = b'{"instances": ' + unit * count
        assert httpx.post(server.rest + PATH, content=body, timeout=10).status_code == 400
        closed = b'{"inputs": ' + b"[" * count + b"]" * count + b"}"
        assert httpx.post(server.rest + PATH, content=closed, timeout=10).status_code in (200, 400)


def test_noise_on_the_port_is_refused(server: RunningServer) -> None:
    choose = random.Random(2)
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=2) as connection:
            noise = choose.randbytes(choose.randint(1, 300))
            with contextlib.suppress(OSError):
                connection.sendall(choose.choice([b"", b"GET ", b"POST / HTTP/1.1\r\n"]) + noise)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)


def test_strange_paths_get_an_answer(server: RunningServer) -> None:
    choose = random.Random(3)
    letters = "abc/:%?#.~+&=;@!é€ 0129"
    for _ in range(200):
        target = "/v1/models/" + "".join(choose.choices(letters, k=choose.randint(0, 12)))
        request = f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=5) as connection:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 ")


def test_a_thousand_idle_connections_do_not_matter(server: RunningServer) -> None:
    with contextlib.ExitStack() as open_connections:
        for _ in range(1000):
            open_connections.enter_context(socket.create_connection(("127.0.0.1", server.rest_port)))
        answer = httpx.post(server.rest + PATH, content=b'{"instances": [1.0]}', timeout=10)
        assert answer.json() == {"predictions": [3.5]}


def test_a_client_that_reads_nothing_is_not_answered_without_end(server: RunningServer) -> None:
    body = b'{"instances": [' + b",".join([b"1.5"] * 50_000) + b"]}"
    request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body
    address = ("127.0.0.1", server.rest_port)
    with socket.create_connection(address, timeout=1) as connection, contextlib.suppress(TimeoutError):
        for _ in range(200):  # 40 MB in, 60 MB out, if the server took it
            connection.sendall(request)
        pytest.fail("the server read everything and kept the answers")
