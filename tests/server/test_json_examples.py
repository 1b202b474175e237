"""JSON objects to tf.Examples, and base64 as TF Serving reads it."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.errors import StatusError
from servekit.protos import messages
from servekit.server.json_base64 import decode
from servekit.server.json_examples import examples_of
from servekit.server.json_parse import parse


def features(body: str) -> list[Any]:
    return [messages.Example.FromString(data).features.feature for data in examples_of(parse(body.encode()))]


def test_the_first_value_decides_the_kind_of_a_feature() -> None:
    (feature,) = features('{"examples": [{"f": [1.5, NaN], "i": [1, true], "s": ["a", {"b64": "AA=="}], "none": []}]}')
    assert feature["f"].float_list.value[0] == 1.5
    assert list(feature["i"].int64_list.value) == [1, 1]
    assert list(feature["s"].bytes_list.value) == [b"a", b"\0"]
    assert feature["none"].WhichOneof("kind") is None


def test_names_of_features_end_at_their_first_nul() -> None:
    (feature,) = features('{"examples": [{"x\\u0000y": 1}]}')
    assert list(feature) == ["x"]


def test_an_examples_own_feature_wins_over_the_contexts() -> None:
    first, second = features('{"context": {"x": 8.0}, "examples": [{"x": 1.0}, {}]}')
    assert list(first["x"].float_list.value) == [1.0]
    assert list(second["x"].float_list.value) == [8.0]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"examples": [1.0]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{}], "context": [1]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [{"x": [1.0, 2]}]}', "Unexpected element type in feature: x expecting type: float"),
        ('{"examples": [{"x": null}]}', "Feature: x has element with unexpected JSON type: Null"),
        ('{"examples": [{"x": [[1]]}]}', "Feature: x has element with unexpected JSON type: Array"),
        (
            '{"examples": [{"x": 9223372036854775808}]}',
            "Feature: x has uint64_t element. Only int64_t is supported.",
        ),
        (
            '{"examples": {}}',
            "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array",
        ),
    ],
)
def test_what_is_no_example_is_named(body: str, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        features(body)
    assert caught.value.message == text


@pytest.mark.parametrize("text", ["aGVsbG8=", "aGVsbG8", "aGVs bG8=", "aGVs\nbG8=", "aGVsbG8.", "aGVsbG9="])
def test_base64_is_read_with_all_liberties(text: str) -> None:
    assert decode(text) == b"hello"


@pytest.mark.parametrize("text", ["_-8=", "!!!!", "a", "aGVsbG8==", "aG=VsbG8"])
def test_base64_is_refused(text: str) -> None:
    with pytest.raises(StatusError, match="Unable to base64 decode"):
        decode(text)
