"""What the gateway does not let through is refused clearly, and never goes to the wrong label."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from servekit.gateway.splits import Split
from servekit.protos import messages
from servekit.tensors import to_proto
from tests.conftest import RunningServer
from tests.gateway.conftest import MODEL, Gateway, predict_request

NO_ROWS = "no rows: with batching the model server would never answer"


def code_of(gateway: Gateway, method: str, request: Any = b"", **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        gateway.call(method, request, messages.PredictResponse, **options)
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [
        ("tensorflow.serving.ModelService/HandleReloadConfigRequest", "PERMISSION_DENIED", "edit config/serving.yaml"),
        ("tensorflow.ProfilerService/Profile", "PERMISSION_DENIED", "profiler"),
        ("tensorflow.ProfileAnalysis/NewSession", "PERMISSION_DENIED", "profiler"),
        ("tensorflow.serving.PredictionService/PredictStreamed", "UNIMPLEMENTED", "no streams"),
        ("tensorflow.serving.SessionService/SessionRun", "UNIMPLEMENTED", "no such method"),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "UNIMPLEMENTED", "no such method"),
        ("tensorflow.serving.predictionservice/Predict", "UNIMPLEMENTED", "no such method"),
    ],
)
def test_admin_calls_and_unknown_methods(gateway: Gateway, method: str, code: str, details: str) -> None:
    got, text = code_of(gateway, method)
    assert (got, details in text) == (code, True), text


def test_compressed_messages_and_streams(gateway: Gateway) -> None:
    big = predict_request(*[1.0] * 10_000)
    assert code_of(gateway, "Predict", big, compression=grpc.Compression.Gzip)[0] == "UNIMPLEMENTED"
    stream = gateway.channel.stream_stream("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([predict_request().SerializeToString()] * 2), timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "one message a call" in caught.value.details()


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a\x7f",
        b"\xff" * 40,
        b"\x0a\x03\x0a\x7fa",
        b"\x0b\x0c",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x18\x01" * 30_000,
    ],
    ids=["past-the-end", "no-tag", "inner-past-the-end", "group", "endless-varint", "too-many-fields"],
)
def test_what_is_no_request(gateway: Gateway, message: bytes) -> None:
    code, details = code_of(gateway, "Predict", message)
    assert code == "INVALID_ARGUMENT"
    assert "cannot read this request" in details


ROWLESS = [
    b'{"instances": []}',
    b'{"inputs": []}',
    b'\xef\xbb\xbf{"instances":[ \n]}',
    b'{"inputs": {"x": []}}',
    b'{"signature_name": "serving_default", "instances": []}',
    b'{"inputs": {"y": [1.0], "x": []}}',
    b'{"note": "a \\" b: [] {", "more": [1, {"a": [[]]}], "instances": []}',
    b'{"\\u0069nstances": []}',
    b'{"instances"  :\t[\r\n]  , "instances": [1.0]}',
    b'{"padding": "' + b"x" * 1_000_000 + b'", "instances": []}',
    b'{"instances": []' + b" " * 1_000_000 + b"}",
]
WITH_ROWS = [
    b'{"instances": [1.0]}',
    b'{"instances": [{"x": 1.0}], "signature_name": "serving_default"}',
    b'{"note": "not :[] really", "instances": [1.0]}',
    b'{"note": {"instances": []}, "instances": [1.0]}',
    b'{"inputs": {"x": [1.0], "extra": "a: []"}}',
    b'{"instances": [1.0], "instances": []}',
]


@pytest.mark.parametrize("body", ROWLESS, ids=range(len(ROWLESS)))
def test_a_rest_request_without_rows(gateway: Gateway, body: bytes) -> None:
    for where in ("", "/labels/canary", "/versions/1"):
        answer = gateway.predict(where, content=body)
        assert (answer.status_code, NO_ROWS in answer.json()["error"]) == (400, True)
    packed = gateway.predict(content=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 400
    assert NO_ROWS in packed.json()["error"]
    in_parts = gateway.predict(content=iter([body[:5], body[5:]]))
    assert in_parts.status_code == 400


def test_an_empty_list_is_seen_wherever_the_gateway_s_pieces_of_a_body_meet(gateway: Gateway) -> None:
    piece, head = 65_536, b'{"inputs": {"y": [1.0], "note": "'
    for colon in range(piece - 8, piece + 2):
        body = head + b"x" * (colon - len(head) - 7) + b'", "x":  [ \n ]}}'
        assert body.rindex(b":") == colon - 1
        assert NO_ROWS in gateway.predict(content=body).json()["error"], colon
    for space in (b" " * piece, b"\n" * 2 * piece):
        assert gateway.predict(content=b'{"inputs": {"x":' + space + b"[" + space + b"]}}").status_code == 400
    long = b'{"inputs": {"x": [' + b", ".join([b"1.0"] * 40_000) + b"]}}"
    assert gateway.predict("/labels/stable", content=long).json()["outputs"][-1] == 2.5


@pytest.mark.parametrize("body", WITH_ROWS, ids=range(len(WITH_ROWS)))
def test_a_rest_request_with_rows_passes(gateway: Gateway, body: bytes) -> None:
    gateway.set(Split())
    answer = gateway.predict(content=body)
    assert (answer.status_code, list(answer.json().values())) == (200, [[2.5]]), answer.text


def test_a_grpc_request_without_rows(gateway: Gateway) -> None:
    for shape in [(0,), (0, 3)]:
        request = predict_request()
        request.inputs["x"].CopyFrom(to_proto(np.zeros(shape, np.float32)))
        for choice in ({}, {"version": 1}, {"label": "canary"}):
            wanted = predict_request(**choice).model_spec
            request.model_spec.CopyFrom(wanted)
            code, details = code_of(gateway, "Predict", request)
            assert (code, NO_ROWS in details) == ("INVALID_ARGUMENT", True), details
    # The shape behind the content, and in two pieces: protobuf takes fields in any order.
    tensor = to_proto(np.zeros((0,), np.float32))
    tensor.ClearField("tensor_shape")
    late = tensor.SerializeToString() + b"\x12\x00" + b"\x12\x04\x12\x02\x08\x00"
    entry = b"\x0a\x01x\x12" + bytes([len(late)]) + late
    raw = b"\x0a\x0f\x0a\x0dhalf_plus_two" + b"\x12" + bytes([len(entry)]) + entry
    assert NO_ROWS in code_of(gateway, "Predict", raw)[1]


@pytest.mark.slow
def test_large_requests_pass_and_larger_ones_are_refused(gateway: Gateway) -> None:
    gateway.set(Split())
    rows = 60 * 2**20 // 4
    answer, _ = gateway.call("Predict", predict_request(*np.zeros(rows, np.float32)), messages.PredictResponse)
    assert answer.outputs["y"].tensor_shape.dim[0].size == rows
    code, details = code_of(gateway, "Predict", predict_request(*np.zeros(17 * 2**20, np.float32)))
    assert (code, details) == ("RESOURCE_EXHAUSTED", "the request is larger than 64 MiB (gateway.max_request_mib)")
    body = b'{"instances": [1.0], "padding": "' + b"x" * (63 * 2**20) + b'"}'
    assert gateway.predict(content=body).json() == {"predictions": [2.5]}
    answer = gateway.predict(content=body + b" " * 2**20)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request is larger than 64 MiB (gateway.max_request_mib)"}
    packed = gzip.compress(body + b" " * 2**20, 1)  # its size unpacked counts
    assert gateway.predict(content=packed, headers={"Content-Encoding": "gzip"}).status_code == 413


def test_gzip_bodies_pass(gateway: Gateway) -> None:
    gateway.set(Split())
    body = gzip.compress(json.dumps({"instances": [1.0] * 1000}).encode())
    answer = gateway.predict(content=body, headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"predictions": [2.5] * 1000}
    broken = gateway.predict(content=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert broken.status_code == 400
    assert "error" in broken.json()


def test_an_error_in_the_filter_is_refused_and_not_passed_on(gateway: Gateway) -> None:
    """With weights that are no numbers: Lua fails, and Envoy goes on without it."""
    gateway.set(Split())
    text = gateway.routes.read_text()
    staged = gateway.folder / "routes" / ".broken"
    staged.write_text(text.replace("weight: 0", "weight: {}").replace("generation: ", "generation: x"))
    staged.replace(gateway.routes)
    try:
        deadline = time.monotonic() + 30
        while (answer := gateway.predict()).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.status_code == 503
        assert answer.json() == {"error": "the gateway could not label this request"}
        assert code_of(gateway, "Predict", predict_request())[0] == "UNAVAILABLE"
        assert gateway.predict("/labels/stable").status_code == 200
    finally:
        gateway.set(Split(sticky="anew"))


def test_a_client_that_stalls_does_not_hold_its_connection_for_ever(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hasty = Gateway(tmp_path_factory.mktemp("hasty"), server.grpc_port, server.rest_port, deadline_ms=500)
    head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
    try:
        for sent in (head, head[:-30]):
            with socket.create_connection(("127.0.0.1", hasty.rest_port), timeout=20) as client:
                client.sendall(sent)
                assert client.recv(4096).startswith(b"HTTP/1.1 408"), sent
    finally:
        hasty.stop()


def test_http_1_0_and_keep_alive(gateway: Gateway) -> None:
    gateway.set(Split())
    body = b'{"instances": [1.0]}'
    head = f"POST /v1/models/{MODEL}:predict HTTP/1.%d\r\n%sContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.rest_port), timeout=20) as client:
        for _ in range(3):
            client.sendall((head % (1, "Host: x\r\n")).encode() + body)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.version, answer.status) == (11, 200)
            assert json.loads(answer.read()) == {"predictions": [2.5]}
    with socket.create_connection(("127.0.0.1", gateway.rest_port), timeout=20) as client:
        client.sendall((head % (0, "")).encode() + body)
        assert b" 200 OK" in client.recv(4096).splitlines()[0]


def test_a_model_server_that_is_gone_is_said_in_its_own_shape(gateway: Gateway, tmp_path_factory: Any) -> None:
    alone = Gateway(tmp_path_factory.mktemp("alone"), 1, 1)
    try:
        answer = alone.predict()
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert code_of(alone, "Predict", predict_request())[0] == "UNAVAILABLE"
        with pytest.raises(httpx.HTTPStatusError):
            alone.rest_predict()
    finally:
        alone.stop()
