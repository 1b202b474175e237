"""REST answers byte for byte."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from servekit.errors import StatusError
from servekit.protos import messages
from servekit.server.examples import Class
from servekit.server.json_answers import (
    classify_answer,
    column_answer,
    error_answer,
    regress_answer,
    row_answer,
    status_answer,
)


def objects(*values: bytes) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (100, "100.0"),
        (1e6, "1e+06"),
        (16777216, "16777216.0"),
        (3.1415927, "3.14159274"),
        (3.4028235e38, "3.40282347e+38"),
        (-0.0, "-0.0"),
        (1e-40, "0.0"),
        (np.nan, "NaN"),
        (-np.inf, "-Infinity"),
    ],
)
def test_floats_have_six_digits_or_nine(value: float, text: str) -> None:
    assert column_answer({"y": np.array(value, np.float32)}) == b'{\n    "outputs": ' + text.encode() + b"\n}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.1415927, "3.1415926999999999"), (1e15, "1e+15"), (123456789012.0, "123456789012.0"), (5e-324, "0.0")],
)
def test_doubles_have_six_digits_or_seventeen(value: float, text: str) -> None:
    assert column_answer({"y": np.array(value)}) == b'{\n    "outputs": ' + text.encode() + b"\n}"


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_what_is_written_reads_back(array: NDArray[np.float32]) -> None:
    array[np.abs(array) < np.finfo(np.float32).tiny] = 0
    rows = orjson.loads(row_answer({"y": array}))["predictions"]
    columns = orjson.loads(column_answer({"y": array}))["outputs"]
    assert np.array_equal(np.array(rows, np.float32), array)
    assert np.array_equal(np.array(columns, np.float32), array)


def test_rows_stand_on_one_line() -> None:
    assert row_answer({"y": np.array([[1, 2], [3, 4]], np.int32)}) == (
        b'{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}'
    )
    assert row_answer({"y": np.zeros((2, 0), np.float32)}) == b'{\n    "predictions": [[], []\n    ]\n}'
    assert row_answer({"y": np.zeros((2, 0, 3), np.float32)}) == b'{\n    "predictions": [[], []\n    ]\n}'
    assert row_answer({"y": np.zeros((1, 2, 0), np.float32)}) == b'{\n    "predictions": [[[], []]\n    ]\n}'
    assert row_answer({"y": np.zeros((0, 2), np.float32)}) == b'{\n    "predictions": []\n}'


def test_several_outputs_make_an_object_a_row() -> None:
    assert row_answer({"a": np.array([1, 2]), "b": np.array([[True, False], [False, True]])}) == (
        b'{\n    "predictions": [\n        {\n            "a": 1,\n            "b": [true, false]\n        },\n'
        b'        {\n            "a": 2,\n            "b": [false, true]\n        }\n    ]\n}'
    )


def test_columns_have_a_line_for_each_value() -> None:
    assert column_answer({"y": np.array([[1], [2]])}) == (
        b'{\n    "outputs": [\n        [\n            1\n        ],\n        [\n            2\n        ]\n    ]\n}'
    )
    assert column_answer({"a": np.array([1]), "b": np.zeros((2, 0))}) == (
        b'{\n    "outputs": {\n        "a": [\n            1\n        ],\n        "b": [\n            [],\n'
        b"            []\n        ]\n    }\n}"
    )


@pytest.mark.parametrize("shape", [(40,), (5, 8), (40, 1), (2, 3, 7), (1,) * 60 + (2, 40, 1)], ids=str)
def test_large_tensors_of_floats_have_the_layout_of_others(shape: tuple[int, ...]) -> None:
    integers = np.arange(math.prod(shape)).reshape(shape)
    floats = integers.astype(np.float32)
    for answer in (row_answer, column_answer):
        assert answer({"y": floats}).replace(b".0", b"") == answer({"y": integers})
        both = answer({"y": floats, "z": floats})
        assert both.replace(b".0", b"") == answer({"y": integers, "z": integers})


def test_outputs_named_bytes_are_base64_and_others_raw_text() -> None:
    assert row_answer({"y_bytes": objects(b"hello")}) == (
        b'{\n    "predictions": [{\n            "b64": "aGVsbG8="\n        }\n    ]\n}'
    )
    assert row_answer({"y": objects(b'\xff"\n', "é".encode())}) == (
        b'{\n    "predictions": ["\xff\\"\\n", "\xc3\xa9"\n    ]\n}'
    )


def test_examples_answers() -> None:
    assert classify_answer([[Class(b"first", 3.5), Class(b"", 3.0)]]) == (
        b'{\n    "results": [[["first", 3.5], ["", 3.0]]\n    ]\n}'
    )
    assert regress_answer([3.5, 4.25]) == b'{\n    "results": [3.5, 4.25]\n}'
    assert error_answer('say "no"\n') == b'{\n    "error": "say \\"no\\"\\n"\n}'


def test_what_json_cannot_carry_is_refused() -> None:
    with pytest.raises(StatusError, match="Failed to write JSON value for tensor type: half"):
        row_answer({"y": np.zeros(1, np.float16)})
    with pytest.raises(StatusError, match="Tensor name: y has no shape information "):
        row_answer({"y": np.float32(1).reshape(())})
    with pytest.raises(StatusError, match="Tensor name: b has inconsistent batch size: 2 expecting: 1"):
        row_answer({"a": np.zeros(1), "b": np.zeros(2)})


def test_status_texts_are_escaped_as_protobufs_own_printer_does() -> None:
    response = messages.GetModelStatusResponse()
    status = response.model_version_status.add(version=1).status
    status.error_message = "<é>\x01\x7f\x85\xad\u200b\u2028\u2070\ufeff\n\\"
    escaped = "\\u003cé\\u003e\\u0001\\u007f\\u0085\\u00ad\\u200b\\u2028\u2070\\ufeff\\n\\\\"
    assert f'"error_message": "{escaped}"' in status_answer(response).decode()
