"""How calls look as JSON, and how answers are read; the bytes are those of TF Serving."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from servekit.client.answers import Signature, TensorSpec
from servekit.client.rest_wire import RestWire, error_of
from servekit.client.wire import SignatureMovedError
from servekit.errors import Code, StatusError
from servekit.model_spec import ModelSpec

WIRE = RestWire()


def signature(**outputs: tuple[str, tuple[int, ...] | None]) -> Signature:
    return Signature(
        "tensorflow/serving/predict",
        {},
        {name: TensorSpec(name, dtype, shape) for name, (dtype, shape) in outputs.items()},
    )


def read(body: bytes, with_signature: Signature | None, output_filter: tuple[str, ...] = ()) -> dict[str, Any]:
    call = WIRE.predict(ModelSpec("m"), {}, output_filter)
    return call.read(body)(with_signature).outputs


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([1, 2.5], np.float32), "[1.0,2.5]"),
        (np.array([[1, 2]], np.int64), "[[1,2]]"),
        (np.array(3, np.int32), "3"),
        (np.array([True, False]), "[true,false]"),
        (np.array([0.1], np.float16), "[0.099975586]"),
        (np.array([b"a\0\xff"], object), '[{"b64":"YQD/"}]'),
        (np.array(b"a", object), '{"b64":"YQ=="}'),
        (np.array([np.nan, np.inf, -np.inf]), "[NaN, Infinity, -Infinity]"),
        (np.zeros((0, 2), np.float32), "[]"),
        (np.array([2**64 - 1], np.uint64), "[18446744073709551615]"),
        (np.array([1.5, 2.5])[::-1], "[2.5,1.5]"),
    ],
)
def test_inputs_are_written_in_column_format(array: Any, text: str) -> None:
    call = WIRE.predict(ModelSpec("m", signature_name="s"), {"x": array}, ())
    assert call.body.decode() == f'{{"signature_name":"s","inputs":{{"x":{text}}}}}'


def test_complex_inputs_are_refused_because_json_has_none() -> None:
    with pytest.raises(ValueError, match="send this over gRPC"):
        WIRE.predict(ModelSpec("m"), {"x": np.array([1j])}, ())


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        (ModelSpec("m"), "POST /v1/models/m:predict"),
        (ModelSpec("m", version=0), "POST /v1/models/m/versions/0:predict"),
        (ModelSpec("m", version_label="a b/c"), "POST /v1/models/m/labels/a%20b%2Fc:predict"),
    ],
)
def test_version_and_label_are_part_of_the_path(spec: ModelSpec, target: str) -> None:
    assert WIRE.predict(spec, {}, ()).target == target


def test_a_single_output_gets_its_name_and_dtype_from_the_signature() -> None:
    outputs = read(b'{"outputs": [1.5, 2]}', signature(y=("DT_FLOAT", (-1,))))
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [1.5, 2.0]


def test_strings_and_b64_become_bytes() -> None:
    body = b'{"outputs": {"label": [["a", "\xff"]], "png_bytes": [{"b64": "iVA="}]}}'
    outputs = read(body, signature(label=("DT_STRING", None), png_bytes=("DT_STRING", None)))
    assert outputs["label"].tolist() == [[b"a", b"\xff"]]
    assert outputs["png_bytes"].tolist() == [b"\x89P"]


def test_nan_and_infinity_are_read_although_json_has_none() -> None:
    values = read(b'{"outputs": [NaN, Infinity, -Infinity]}', signature(y=("DT_DOUBLE", None)))["y"]
    assert math.isnan(values[0])
    assert values[1:].tolist() == [math.inf, -math.inf]


def test_no_rows_keep_their_columns() -> None:
    outputs = read(b'{"outputs": {"a": [], "b": []}}', signature(a=("DT_FLOAT", (-1, 5)), b=("DT_STRING", (-1,))))
    assert outputs["a"].shape == (0, 5)
    assert outputs["a"].dtype == np.float32
    assert outputs["b"].dtype == object


@pytest.mark.parametrize(
    ("body", "of"),
    [
        (b'{"outputs": [1.5]}', signature(y=("DT_INT32", None))),
        (b'{"outputs": ["a"]}', signature(y=("DT_INT32", None))),
        (b'{"outputs": [1]}', signature(y=("DT_STRING", None))),
        (b'{"outputs": {"a": 1, "c": 2}}', signature(a=("DT_INT32", None), b=("DT_INT32", None))),
        (b'{"outputs": [1]}', signature(a=("DT_INT32", None), b=("DT_INT32", None))),
    ],
)
def test_an_answer_that_does_not_fit_the_signature_says_that_it_moved(body: bytes, of: Signature) -> None:
    with pytest.raises(SignatureMovedError):
        read(body, of)


def test_output_filter_picks_outputs_and_refuses_unknown_ones() -> None:
    of = signature(a=("DT_INT32", None), b=("DT_INT32", None))
    assert set(read(b'{"outputs": {"a": 1, "b": 2}}', of, ("b",))) == {"b"}
    with pytest.raises(StatusError, match="output tensor alias not found in signature: z"):
        read(b'{"outputs": {"a": 1, "b": 2}}', of, ("z",))


def test_examples_are_written_with_their_context() -> None:
    call = WIRE.classify(ModelSpec("m"), [{"x": 1.0, "name": b"\0", "ids": [1, 2]}], {"user": "u"})
    assert json.loads(call.body) == {
        "signature_name": "serving_default",
        "examples": [{"x": 1.0, "name": {"b64": "AA=="}, "ids": [1, 2]}],
        "context": {"user": "u"},
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, Code.INVALID_ARGUMENT), (404, Code.NOT_FOUND), (503, Code.UNAVAILABLE), (500, Code.INTERNAL)],
)
def test_an_http_status_becomes_its_canonical_code(status: int, code: Code) -> None:
    error = error_of(status, b'{ "error": "text \xff" }')
    assert error.code is code
    assert error.message.startswith("text ")


def test_an_error_page_that_is_not_tf_servings_is_quoted() -> None:
    assert error_of(502, b"<html>Bad gateway").message == "HTTP 502 <html>Bad gateway"
