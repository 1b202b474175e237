"""The REST edge of a running server: predictions, versions and labels, status, metadata, broken requests, clients."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.silence import until_silence

CONFIG = """
model_config_list {{
  config {{
    name: "half_plus_two" base_path: "{models}/half_plus_two" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
  config {{ name: "strings" base_path: "{models}/strings" model_platform: "tensorflow" }}
  config {{ name: "failing" base_path: "{models}/failing" model_platform: "tensorflow" }}
  config {{ name: "sleep" base_path: "{models}/sleep" model_platform: "tensorflow" }}
}}
"""
PREDICT = "/v1/models/half_plus_two:predict"

Raw = Callable[..., bytes]


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file={work}/monitoring.config",
        "--rest_api_timeout_in_ms=3000",
        files={
            "models.config": CONFIG.format(models=models),
            "monitoring.config": "prometheus_config { enable: true }",
        },
    )


@pytest.fixture
def post(server: RunningServer) -> Callable[..., httpx.Response]:
    def send(path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return plain_http.post(server.rest + path, content=content, timeout=10, **options)

    return send


@pytest.fixture
def raw(server: RunningServer) -> Raw:
    """Sends bytes and returns everything that comes back until the server closes or is silent for `silence_s`."""

    def send(*parts: bytes, pause_s: float = 0.0, silence_s: float = 1.0) -> bytes:
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            return until_silence(connection, silence_s)

    return send


def test_rows_and_columns(post: Any) -> None:
    assert post(PREDICT, {"instances": [1.0, 2.0]}).json() == {"predictions": [3.5, 4.0]}
    assert post(PREDICT, {"instances": [{"x": 1.0}]}).json() == {"predictions": [3.5]}
    assert post(PREDICT, {"inputs": {"x": [1.0]}}).json() == {"outputs": [3.5]}


def test_bytes_travel_as_base64(post: Any) -> None:
    answer = post("/v1/models/strings:predict", {"instances": [{"b64": "aGVsbG8="}, "text"]}).json()
    assert answer["predictions"] == [
        {"text": "hello", "text_bytes": {"b64": "aGVsbG8="}},
        {"text": "text", "text_bytes": {"b64": "dGV4dA=="}},
    ]


@pytest.mark.parametrize(
    ("where", "answer"),
    [("", 3.5), ("/versions/1", 2.5), ("/versions/002", 3.5), ("/labels/stable", 2.5), ("/labels/canary", 3.5)],
)
def test_versions_and_labels_choose(post: Any, where: str, answer: float) -> None:
    assert post(f"/v1/models/half_plus_two{where}:predict", {"instances": [1.0]}).json() == {"predictions": [answer]}


def test_classify_and_regress(post: Any) -> None:
    body: dict[str, Any] = {"signature_name": "classify", "examples": [{"x": 1.0}]}
    assert post("/v1/models/half_plus_two:classify", body).json() == {"results": [[["first", 3.5], ["second", -3.5]]]}
    body = {"signature_name": "regress", "context": {"x": 2.0}, "examples": [{}, {"x": 1.0}]}
    assert post("/v1/models/half_plus_two:regress", body).json() == {"results": [4.0, 3.5]}


def test_status_and_metadata(server: RunningServer) -> None:
    states = plain_http.get(f"{server.rest}/v1/models/half_plus_two").json()["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]
    metadata = plain_http.get(f"{server.rest}/v1/models/half_plus_two/labels/stable/metadata").json()
    assert metadata["model_spec"]["version"] == "1"
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (PREDICT, b"{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        (PREDICT, b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/nope:predict", b'{"instances": [1]}', 404, "Servable not found for request: Latest(nope)"),
        (
            "/v1/models/half_plus_two/versions/9:predict",
            b'{"instances": [1]}',
            404,
            "Servable not found for request: Specific(half_plus_two, 9)",
        ),
        (
            "/v1/models/half_plus_two/labels/x:predict",
            b'{"instances": [1]}',
            400,
            "Unrecognized servable version label: x",
        ),
        (
            PREDICT,
            b'{"signature_name": "nope", "instances": [1]}',
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        (f"{PREDICT}?a=b", b"{}", 400, f"Malformed request: POST {PREDICT}?a=b"),
        ("/v1/models/half_plus_two:explain", b"{}", 400, "Malformed request: POST /v1/models/half_plus_two:explain"),
    ],
)
def test_broken_requests_are_told_why(post: Any, path: str, body: bytes, status: int, error: str) -> None:
    response = post(path, body)
    assert (response.status_code, response.json()) == (status, {"error": error})


def test_a_model_that_fails_affects_only_its_request(post: Any) -> None:
    response = post("/v1/models/failing:predict", {"instances": [-1.0]})
    assert response.status_code == 400
    assert "x must not be negative" in response.json()["error"]
    assert post("/v1/models/failing:predict", {"instances": [4.0]}).json() == {"predictions": [2.0]}


def test_a_version_beyond_int64_gets_an_empty_answer(post: Any) -> None:
    response = post(f"/v1/models/half_plus_two/versions/{2**63}:predict", {"instances": [1]})
    assert (response.status_code, response.content) == (400, b"")


def test_what_is_no_api_path_gets_libevents_page_and_a_closed_connection(server: RunningServer) -> None:
    response = plain_http.get(f"{server.rest}/nope")
    assert response.status_code == 404
    assert response.headers["connection"] == "close"
    assert response.text.startswith("<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>")


def test_gzip_bodies_are_read_and_broken_ones_are_empty(post: Any) -> None:
    packed = gzip.compress(b'{"instances": [1.0]}')
    assert post(PREDICT, packed, headers={"Content-Encoding": "gzip"}).json() == {"predictions": [3.5]}
    for broken in (packed[:-9], packed[:-1], packed + b"\0", packed + packed, packed[:-4] + b"\0\0\0\0", b"{}"):
        answer = post(PREDICT, broken, headers={"Content-Encoding": "x-gzip, br"})
        assert answer.json() == {"error": "JSON Parse error: The document is empty"}


def test_a_request_that_takes_too_long_is_a_504_and_others_go_on(post: Any, server: RunningServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(post, "/v1/models/sleep:predict", {"instances": [3500]})
        time.sleep(0.2)
        assert post(PREDICT, {"instances": [1.0]}).json() == {"predictions": [3.5]}
        assert not slow.done()
        response = slow.result()
    assert (response.status_code, response.json()) == (504, {"error": "Timed out waiting for notification"})
    assert response.reason_phrase == "Gateway Time-out"
    time.sleep(1)  # it ends after all, and is not counted again
    page = plain_http.get(f"{server.rest}/monitoring/prometheus/metrics").text
    counts = [
        line for line in page.splitlines() if line.startswith(':tensorflow:serving:request_count{model_name="sleep"')
    ]
    assert counts == [':tensorflow:serving:request_count{model_name="sleep",status="DEADLINE_EXCEEDED"} 1']


def test_two_clients_in_parallel_get_their_own_answers(post: Any) -> None:
    def ask(start: int) -> list[float]:
        values: list[float] = post(PREDICT, {"instances": [float(start), start + 1.0]}).json()["predictions"]
        return values

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(100)))
    assert answers == [[n / 2 + 3, (n + 1) / 2 + 3] for n in range(100)]


def test_a_megabyte_of_numbers_comes_back_right(post: Any) -> None:
    numbers = np.random.default_rng(7).normal(size=200_000).astype(np.float32)
    answer = post(PREDICT, {"inputs": numbers.tolist()}).json()["outputs"]
    assert np.array_equal(np.array(answer, np.float32), numbers * np.float32(0.5) + np.float32(3))


REQUEST = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n"
BODY = b'{"instances": [1.0]}'


def test_pipelined_requests_are_answered_in_order(raw: Raw) -> None:
    second = b"GET /v1/models/nope HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    received = raw(REQUEST + BODY + REQUEST + BODY + second)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"HTTP/1.1 404 Not Found") > received.rindex(b"3.5")


def test_a_client_that_sends_byte_by_byte_is_waited_for(raw: Raw) -> None:
    message = REQUEST + BODY
    received = raw(*(message[i : i + 10] for i in range(0, len(message), 10)), pause_s=0.01)
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_vanishes_leaves_no_trace(post: Any, raw: Raw, server: RunningServer) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(REQUEST + BODY[:5])
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(REQUEST + BODY)
    assert post(PREDICT, {"instances": [1.0]}).json() == {"predictions": [3.5]}
    assert "Traceback" not in server.log_text()


def test_expect_100_continue_is_answered_before_the_body(raw: Raw) -> None:
    head = REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    received = raw(head, BODY, pause_s=0.1)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert raw(head.replace(b"100-continue", b"magic")).startswith(b"HTTP/1.1 417 Expectation Failed")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET /v1/models/half_plus_two HTTP/9.9\r\n\r\n", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"413 Request Entity Too Large"),
        (b"GET half_plus_two:predict HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET v1/models/half_plus_two HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /nope HTTP/1.0\r\n\r\n", b"404 Not Found"),
        (b'GET /v1/models/a"b HTTP/1.1\r\n\r\n', b"400 Bad Request"),
        (b"BREW /v1/models/half_plus_two HTTP/1.1\r\n\r\n", b"501 Not Implemented"),
        (b"TRACE /v1/models/half_plus_two HTTP/1.1\r\n\r\n", b"501 Not Implemented"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", b"400 Bad Request"),
        (b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n", b"400 Bad Request"),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(raw: Raw, message: bytes, status: bytes) -> None:
    received = raw(message)
    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in received


STATUS = b"/v1/models/strings HTTP/1.1\r\n\r\n"


def test_a_body_without_a_length_is_empty_whatever_connection_says(raw: Raw) -> None:
    received = raw(b"POST /v1/models/m:predict HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" + b"GET " + STATUS)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
    assert b"The document is empty" in received
    assert b"HTTP/1.1 200 OK" in received


def test_a_get_may_have_a_body_and_it_is_skipped(raw: Raw) -> None:
    received = raw(b"GET /v1/models/strings HTTP/1.1\r\nContent-Length: 5\r\n\r\n{}{}{" + b"GET " + STATUS)
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_http_1_0_is_answered_without_a_length_and_closed_unless_it_asks_to_stay(raw: Raw) -> None:
    head, _, body = raw(b"GET /v1/models/strings HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert head == b"HTTP/1.0 200 OK\r\nContent-Type: application/json"
    assert b"AVAILABLE" in body
    stay = b"GET /v1/models/strings HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    received = raw(stay + stay)
    assert received.count(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n") == 2


def test_an_absolute_uri_is_answered_and_closed_without_a_word(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        connection.sendall(b"GET http://any.host" + STATUS)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection:" not in received


def test_after_connect_the_page_says_close_and_the_connection_stays(raw: Raw) -> None:
    received = raw(b"CONNECT h:80 HTTP/1.1\r\n\r\n" * 2000 + b"GET " + STATUS)
    assert received.count(b"HTTP/1.1 501 Not Implemented") == 2000
    assert received.count(b"HTTP/1.1 200 OK") == 1


def test_options_name_their_type_last(raw: Raw) -> None:
    received = raw(b"OPTIONS /v1/models HTTP/1.1\r\nOrigin: see https://a\r\nConnection: close\r\n\r\n")
    lines = [line for line in received.decode().split("\r\n") if not line.startswith("Date:")]
    assert lines[:2] == ["HTTP/1.1 200 OK", "Content-Length: 0"]
    assert lines[2:4] == ["Content-Type: text/html; charset=ISO-8859-1", "Connection: close"]


def test_requests_that_are_counted_without_a_model_have_their_code(raw: Raw, server: RunningServer) -> None:
    raw(b"OPTIONS /v1/models/x HTTP/1.1\r\nConnection: close\r\n\r\n")
    page = plain_http.get(f"{server.rest}/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:request_count{model_name="",status="FAILED_PRECONDITION"}' in page


def test_the_metrics_page_counts_requests_and_versions(post: Any, server: RunningServer) -> None:
    post("/v1/models/half_plus_two/versions/1:predict", {"instances": [1.0]})
    page = plain_http.get(f"{server.rest}/monitoring/prometheus/metrics")
    assert page.headers["content-type"] == "text/plain"
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}' in page.text
    assert 'servekit_version_available{model="half_plus_two",version="2"} 1' in page.text
    assert 'servekit_model_configured{model="half_plus_two"} 1' in page.text
    assert "servekit_server_resident_memory_bytes{} " in page.text
    assert 'servekit_requests_total{model="half_plus_two",version="1",api="predict",entrypoint="REST"' in page.text
