"""Clients that mean no good, or do not know better: the server answers them, forgets them and serves the others."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servekit.protos import messages
from servekit.tensors import to_proto
from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.silence import until_silence

pytestmark = pytest.mark.slow

PATH = "/v1/models/half_plus_two:predict"
PIECES = [b"{", b"}", b"[", b"]", b":", b",", b'"instances"', b'"inputs"', b'"b64"', b'"x"', b'"\\ud83d"', b'"\xff"']
PIECES += [b"1", b"-0", b"1e999", b"NaN", b"null", b"true", b"1" * 400, b" ", b"\0", b"\\", b'"', b'{"x": 1}', b"[[1]]"]


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve("--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two")


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with plain_http.Http(base_url=server.rest, timeout=10) as client:
        yield client


@pytest.fixture(autouse=True)
def _still_serving(server: RunningServer) -> Iterator[None]:
    yield
    assert server.process.poll() is None
    answer = plain_http.post(server.rest + PATH, content=b'{"instances": [1.0]}', timeout=10)
    assert answer.json() == {"predictions": [3.5]}
    assert "Traceback" not in server.log_text()


def test_heaps_of_json_pieces_get_an_answer(server: RunningServer) -> None:
    choose = random.Random(1)
    with plain_http.Http(base_url=server.rest, timeout=10) as client:
        for _ in range(400):
            body = b'{"instances": ' + b"".join(choose.choices(PIECES, k=choose.randint(0, 12)))
            status = client.post(PATH, content=body).status_code
            assert status in (200, 400)


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'{"instances":[', b'"\\u'])
def test_deep_and_unended_documents_are_refused(server: RunningServer, unit: bytes) -> None:
    for count in (900, 990, 1000, 100_000):
        body = b'{"instances": ' + unit * count
        assert plain_http.post(server.rest + PATH, content=body, timeout=10).status_code == 400
        closed = b'{"inputs": ' + b"[" * count + b"]" * count + b"}"
        assert plain_http.post(server.rest + PATH, content=closed, timeout=10).status_code in (200, 400)


def exchange(port: int, data: bytes, silence_s: float) -> bytes:
    """What comes back until the server closes, or is silent for so long after this side has said all it has."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):  # it may refuse before it has read all
            connection.sendall(data)
        return until_silence(connection, silence_s)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b"GET ", b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"]),
    st.binary(min_size=1, max_size=300),
)
def test_noise_on_the_port_is_refused_or_waited_for(server: RunningServer, start: bytes, noise: bytes) -> None:
    received = exchange(server.rest_port, start + noise + b"\n\n", 0.3)
    assert not received or received.split(b" ")[1] in (b"200", b"400", b"404", b"413", b"417", b"501")


TARGETS = st.text(st.sampled_from("abhlfpustwo_/:%?#.~+&=;@!é€ 0129-"), max_size=30)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE"]), TARGETS)
def test_strange_paths_get_an_answer(server: RunningServer, method: str, target: str) -> None:
    request = f"{method} /v1/models/{target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    status = int(exchange(server.rest_port, request, 20).split(b" ")[1])  # it closes
    assert status in (200, 400, 404)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({"b64": "AAAA"}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "b64", "instances", "inputs", ""]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["predict", "classify", "regress"]), JSON, st.sampled_from(["instances", "inputs", "examples"]))
def test_any_json_is_answered_and_never_with_500(client: httpx.Client, verb: str, value: Any, key: str) -> None:
    body = json.dumps({key: value, "signature_name": "serving_default"}).encode("utf-8", "surrogatepass")
    answer = client.post(f"/v1/models/half_plus_two:{verb}", content=body)
    assert answer.status_code in (200, 400), answer.text


@pytest.fixture(scope="module")
def grpc_conversation() -> bytes:
    """What a gRPC client sends to predict once, HTTP/2 frames and all."""
    request = messages.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(to_proto(np.array([1.0], np.float32)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            call = predict.future(request.SerializeToString(), timeout=20)
            connection, _ = listener.accept()
            connection.sendall(bytes(3) + b"\4" + bytes(5))  # empty SETTINGS: the client goes on
            connection.settimeout(10)
            said = b""
            while b"half_plus_two" not in said and (data := connection.recv(65536)):
                said += data
            call.cancel()
        connection.close()
    assert b"half_plus_two" in said
    return said


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.lists(st.tuples(st.integers(24, 2000), st.integers(0, 255)), max_size=4))
def test_grpc_frames_that_are_cut_or_damaged(
    server: RunningServer, grpc_conversation: bytes, end: int, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(grpc_conversation)
    for at, byte in damage:
        data[at % len(data)] = byte
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=5) as connection:
        connection.sendall(data[: end % (len(data) + 1)])


def test_clients_that_dribble_hold_no_thread(serve: Serve, models: Path) -> None:
    one_worker = serve(
        "--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two", "--rest_api_num_threads=2"
    )
    request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n" % PATH.encode() + b'{"instances": [1.0]}'
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection(("127.0.0.1", one_worker.rest_port))) for _ in range(300)]
        for at in range(len(request) - 1):
            for connection in slow:
                connection.sendall(request[at : at + 1])
            if at % 20 == 0:
                answer = plain_http.post(one_worker.rest + PATH, content=b'{"instances": [1.0]}', timeout=20)
                assert answer.json() == {"predictions": [3.5]}
        for connection in slow:
            connection.sendall(request[-1:])
        for connection in slow:
            connection.settimeout(10)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def handles(pid: int) -> tuple[int, int]:
    """Open files and threads of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_none_of_this_leaves_files_or_threads_behind(server: RunningServer, grpc_conversation: bytes) -> None:
    def abuse() -> None:
        for number in range(100):
            cut = number * 7
            for port, data in (
                (server.grpc_port, grpc_conversation),
                (server.rest_port, b"POST / HTTP/1.1\r\nA: b\r\n\r\n"),
            ):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(data[: cut % len(data)])
            plain_http.post(server.rest + PATH, content=b"{", timeout=10)
        with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"\xff", timeout=10)

    abuse()
    time.sleep(1)
    files, threads = handles(server.process.pid)
    for _ in range(3):
        abuse()
    deadline = time.monotonic() + 30
    while (now := handles(server.process.pid)) and time.monotonic() < deadline:
        if now[0] <= files + 5 and now[1] <= threads + 5:
            break
        time.sleep(0.2)
    assert now[0] <= files + 5
    assert now[1] <= threads + 5


def test_a_thousand_idle_connections_do_not_matter(server: RunningServer) -> None:
    with contextlib.ExitStack() as open_connections:
        for _ in range(1000):
            open_connections.enter_context(socket.create_connection(("127.0.0.1", server.rest_port)))
        answer = plain_http.post(server.rest + PATH, content=b'{"instances": [1.0]}', timeout=10)
        assert answer.json() == {"predictions": [3.5]}


def test_a_client_that_reads_nothing_is_not_answered_without_end(server: RunningServer) -> None:
    body = b'{"instances": [' + b",".join([b"1.5"] * 50_000) + b"]}"
    request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body
    address = ("127.0.0.1", server.rest_port)
    with socket.create_connection(address, timeout=1) as connection, contextlib.suppress(TimeoutError):
        for _ in range(200):  # 40 MB in, 60 MB out, if the server took it
            connection.sendall(request)
        pytest.fail("the server read everything and kept the answers")
