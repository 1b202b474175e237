"""What takes long or is large: idle connections by the thousand, 100 MB, clients that vanish."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from servekit.protos import messages
from servekit.tensors import to_array, to_proto
from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow

PATH = "/v1/models/half_plus_two:predict"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CONNECTIONS = 10_000
FEW_FILES = 300


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve("--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two")


@pytest.fixture(autouse=True)
def _still_serving(server: RunningServer) -> Iterator[None]:
    yield
    assert server.process.poll() is None
    assert predicts(server)
    assert "Traceback" not in server.log_text()


def predicts(server: RunningServer) -> bool:
    answer = plain_http.post(server.rest + PATH, content=b'{"instances": [1.0]}', timeout=20)
    with grpc.insecure_channel(server.grpc) as channel:
        data = channel.unary_unary(PREDICT)(predict_request(np.array([1.0], np.float32)), timeout=20)
    by_grpc = to_array(messages.PredictResponse.FromString(data).outputs["y"])
    return bool(answer.json() == {"predictions": [3.5]} and by_grpc.tolist() == [3.5])


def predict_request(values: object, model: str = "half_plus_two") -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(to_proto(values))  # type: ignore[arg-type]
    data: bytes = request.SerializeToString()
    return data


def connections(port: int, count: int) -> Iterator[socket.socket]:
    for number in range(count):
        # Each address of the loopback has ports of its own.
        yield socket.create_connection(("127.0.0.1", port), 20, source_address=(f"127.0.1.{number // 5000 + 1}", 0))


@contextlib.contextmanager
def files_allowed(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("edge", ["rest", "grpc"])
def test_ten_thousand_idle_connections_do_not_matter(server: RunningServer, edge: str) -> None:
    port = server.rest_port if edge == "rest" else server.grpc_port
    with files_allowed(CONNECTIONS + 200), contextlib.ExitStack() as opened:
        for connection in connections(port, CONNECTIONS):
            opened.enter_context(connection)
        assert predicts(server)


def test_at_the_limit_of_open_files_new_connections_wait(serve: Serve, models: Path) -> None:
    flags = ("--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = serve(*flags)
    resource.prlimit(few.process.pid, resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
    with contextlib.ExitStack() as opened:
        for _ in range(FEW_FILES + 100):
            opened.enter_context(socket.create_connection(("127.0.0.1", few.rest_port), 20))
        with pytest.raises(httpx.ReadTimeout):
            plain_http.post(few.rest + PATH, content=b'{"instances": [1.0]}', timeout=1)
    time.sleep(1.5)  # asyncio tries to accept again after a second
    assert predicts(few)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_hundred_megabytes_of_json(server: RunningServer) -> None:
    count = 25_000_000
    body = b'{"instances": [' + b"1.5," * (count - 1) + b"1.5]}"
    assert len(body) > 100_000_000
    answer = plain_http.post(server.rest + PATH, content=body, timeout=200)
    assert answer.status_code == 200
    assert answer.content.count(b"3.75") == count


def test_a_hundred_megabytes_by_grpc(server: RunningServer) -> None:
    values = np.arange(25_000_000, dtype=np.float32)
    with grpc.insecure_channel(server.grpc, options=NO_LIMIT) as channel:
        data = channel.unary_unary(PREDICT)(predict_request(values), timeout=100)
    np.testing.assert_array_equal(to_array(messages.PredictResponse.FromString(data).outputs["y"]), values / 2 + 3)


def test_nan_and_infinity_go_in_and_out(server: RunningServer) -> None:
    answer = plain_http.post(server.rest + PATH, content=b'{"instances": [NaN, Infinity, -Infinity]}', timeout=10)
    assert answer.text == '{\n    "predictions": [NaN, Infinity, -Infinity\n    ]\n}'


@pytest.mark.parametrize("cut", [1, 4, 20, -1])
def test_messages_that_are_cut_short(server: RunningServer, cut: int) -> None:
    whole = predict_request(np.array([1.0], np.float32))
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PREDICT)(whole[:cut], timeout=10)
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)


def test_frames_that_are_cut_short(server: RunningServer) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9).replace(b"\0\0\0\0", b"\0\0\0\4", 1)
    for rest in (b"", struct.pack(">I", 2**31), b"\xff" * 200, b"\0\0\5\1\4\0\0\0\1abc"):
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=5) as connection:
            connection.sendall(preface + rest)


def test_rest_clients_that_vanish(server: RunningServer) -> None:
    body = b'{"instances": [' + b",".join([b"1.5"] * 50_000) + b"]}"
    request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body
    for end in (60, len(request) // 2, len(request)):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.rest_port), timeout=5) as connection:
                connection.sendall(request[:end])
                reset = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)


def test_grpc_clients_that_vanish(server: RunningServer) -> None:
    large = predict_request(np.zeros(1_000_000, np.float32))
    for _ in range(20):
        with grpc.insecure_channel(server.grpc) as channel:
            channel.unary_unary(PREDICT).future(large)  # closing the channel cancels it


def test_a_call_whose_time_is_up_leaves_the_queue(serve: Serve, models: Path) -> None:
    batching = "max_batch_size { value: 8 } batch_timeout_micros { value: 3000000 } num_batch_threads { value: 1 }"
    batched = serve(
        "--model_name=half_plus_two",
        f"--model_base_path={models}/half_plus_two",
        "--enable_batching",
        "--batching_parameters_file={work}/batching.config",
        "--monitoring_config_file={work}/monitoring.config",
        "--grpc_max_threads=2",
        files={"batching.config": batching, "monitoring.config": "prometheus_config { enable: true }"},
    )
    request = predict_request(np.array([1.0], np.float32))
    with grpc.insecure_channel(batched.grpc) as channel:
        for _ in range(4):  # twice as many as threads: a thread that went on waiting would show
            began = time.monotonic()
            with StandingStill() as still, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(PREDICT)(request, timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 2 + still.seconds
        time.sleep(3.2)
    page = plain_http.get(f"{batched.rest}/monitoring/prometheus/metrics", timeout=10).text
    runs = [line for line in page.splitlines() if "wrapped_run_count" in line and not line.startswith("#")]
    assert all(line.endswith(" 0") for line in runs), runs
