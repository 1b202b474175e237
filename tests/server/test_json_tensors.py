"""`instances` and `inputs` to arrays: shapes, ranges and the texts of what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.json_parse import parse
from servekit.server.json_tensors import inputs_of
from servekit.tensors import DATA_TYPES

NUMBERS = {type.name: number for number, type in DATA_TYPES.items()}


def read(body: str, **types: str) -> tuple[dict[str, Any], bool]:
    signature = {name: messages.TensorInfo(name=f"{name}:0", dtype=NUMBERS[type]) for name, type in types.items()}
    return inputs_of(parse(body.encode()), signature)


def refusal(body: str, **types: str) -> str:
    with pytest.raises(StatusError) as caught:
        read(body, **types)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "is_row"),
    [
        ('{"instances": [[1, 2], [3, 4]]}', True),
        ('{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', True),
        ('{"inputs": [[1, 2], [3, 4]]}', False),
        ('{"inputs": {"x": [[1, 2], [3, 4]], "ignored": "anything"}}', False),
    ],
)
def test_rows_and_columns_say_the_same(body: str, is_row: bool) -> None:
    arrays, row_format = read(body, x="FLOAT")
    assert row_format is is_row
    assert arrays["x"].dtype == np.float32
    assert arrays["x"].tolist() == [[1, 2], [3, 4]]


def test_scalars_empty_lists_and_deep_lists_have_their_shapes() -> None:
    assert read('{"inputs": 3}', x="INT64")[0]["x"].shape == ()
    assert read('{"inputs": []}', x="INT64")[0]["x"].shape == (0,)
    assert read('{"inputs": [[], []]}', x="INT64")[0]["x"].shape == (2, 0)
    assert read('{"inputs": [[[[0.5]]]]}', x="DOUBLE")[0]["x"].shape == (1, 1, 1, 1)


def test_small_integers_wrap_and_floats_overflow_and_denormals_are_zero() -> None:
    assert read('{"inputs": [128, 300]}', x="INT8")[0]["x"].tolist() == [-128, 44]
    assert read('{"inputs": [256, -1]}', x="UINT8")[0]["x"].tolist() == [0, 255]
    assert read('{"inputs": [1e39, 1e-40]}', x="FLOAT")[0]["x"].tolist() == [np.inf, 0]
    # Flushed where it is tiny after rounding to 24 bits, although the nearest float32 is a normal number.
    assert read('{"inputs": [1.1754943e-38, 1.17549435e-38]}', x="FLOAT")[0]["x"].tolist() == [
        0,
        np.finfo(np.float32).tiny,
    ]
    assert read('{"inputs": [1e-320]}', x="DOUBLE")[0]["x"].tolist() == [0]


def test_strings_are_text_or_base64() -> None:
    arrays, _ = read('{"instances": ["é", {"b64": "AAH/"}]}', x="STRING")
    assert arrays["x"].tolist() == ["é".encode(), b"\x00\x01\xff"]


def test_a_name_twice_in_one_instance_adds_two_values_and_the_last_are_cut() -> None:
    assert read('{"instances": [{"x": 1, "x": 2}, {"x": 3}]}', x="FLOAT")[0]["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": null}', "JSON Value: null Type: Null is not of expected type: float"),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        ('{"inputs": [[1], 2]}', "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (
            '{"instances": [1, "a"]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "a" Type: String is not of expected type: float',
        ),
        (
            '{"instances": [[1], [2, 3]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 1 but got: 2",
        ),
        (
            '{"instances": [1, [2]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [] but got: [1]",
        ),
        ('{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1 of input list"),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1 of input list"),
        (
            '{"instances": [{"z": 1}]}',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z",
        ),
    ],
)
def test_what_does_not_fit_is_named(body: str, text: str) -> None:
    assert refusal(body, x="FLOAT") == text


def test_names_in_instances_end_at_their_first_nul() -> None:
    assert read('{"instances": [{"x\\u0000y": 1}]}', x="FLOAT")[0]["x"].tolist() == [1]


@pytest.mark.parametrize("leaf", ['"a"', '{"b64": "AA=="}'])
def test_too_many_dimensions_are_said_by_the_inputs_name(leaf: str) -> None:
    deep = "[" * 65 + leaf + "]" * 65
    for body in (f'{{"instances": {deep}}}', f'{{"instances": [{{"x": {deep}}}]}}', f'{{"inputs": {deep}}}'):
        assert refusal(body, x="STRING") == "tensor parsing error: x"


def test_integers_must_be_integers_in_range() -> None:
    assert refusal('{"inputs": [1.0]}', x="INT32") == ("JSON Value: 1.0 Type: Number is not of expected type: int32")
    assert refusal('{"inputs": [2147483648]}', x="INT32") == (
        "JSON Value: 2147483648 Type: Number is not of expected type: int32"
    )
    assert refusal('{"inputs": [-1]}', x="UINT64") == "JSON Value: -1 Type: Number is not of expected type: uint64"


def test_several_inputs_need_names() -> None:
    assert refusal('{"instances": [1]}', a="FLOAT", b="FLOAT").startswith("instances is a plain list")
    assert refusal('{"inputs": [1]}', a="FLOAT", b="FLOAT").startswith("inputs is a plain value/list")
    assert refusal('{"inputs": {"a": 1}}', a="FLOAT", b="FLOAT") == "Missing named input: b in 'inputs' object."
    assert refusal('{"instances": [{"b": 1}]}', a="FLOAT", b="FLOAT").endswith("keys must be equal to: a,b")


def test_types_that_json_cannot_carry_are_unimplemented() -> None:
    with pytest.raises(StatusError) as caught:
        read('{"inputs": [1.5]}', x="HALF")
    assert caught.value.code is Code.UNIMPLEMENTED
    assert caught.value.message == "Conversion of JSON Value: 1.5 to type: half"


def test_lists_nested_beyond_pythons_recursion_are_refused_as_tensors_not_with_a_crash() -> None:
    deep = "[" * 5000 + "1" + "]" * 5000
    assert refusal(f'{{"inputs": {deep}}}', x="FLOAT") == "tensor parsing error: x"
    assert refusal(f'{{"inputs": [{deep}, []]}}', x="FLOAT") == (
        "Encountered list at unexpected size: 0 at level: 1 expected size: 1"
    )


def test_strings_have_at_most_as_many_dimensions_as_tensorflows_python_can_read() -> None:
    """A feed of 33 dimensions ends the process there; upstream's limit is 254, for all types."""
    assert read('{"inputs": ' + "[" * 32 + '"a"' + "]" * 32 + "}", x="STRING")[0]["x"].ndim == 32
    assert read('{"inputs": ' + "[" * 33 + "1" + "]" * 33 + "}", x="INT32")[0]["x"].ndim == 33
    for key in ("inputs", "instances"):
        with pytest.raises(StatusError, match="tensor parsing error: x"):
            read('{"' + key + '": ' + "[" * 33 + '"a"' + "]" * 33 + "}", x="STRING")
