"""JSON values as error texts quote them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.server.json_parse import parse
from servekit.server.json_value import quoted, shortest, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (2.5e-7, "2.5e-7"),
        (1e-6, "0.000001"),
        (1e20, "100000000000000000000.0"),
        (1e21, "1e21"),
        (-1.5e300, "-1.5e300"),
        (2.0**64, "18446744073709553000.0"),  # not the shortest that reads back: RapidJSON's own rounding
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
    ],
)
def test_numbers_have_the_digits_of_rapidjson(value: float, text: str) -> None:
    assert shortest(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_digits_always_read_back(value: float) -> None:
    assert math.copysign(1, float(shortest(value))) == math.copysign(1, value)
    assert float(shortest(value)) == value


def test_what_is_too_small_for_a_normal_number_is_shown_as_zero() -> None:
    """`JsonValueToDebugString` of json_tensor.cc, in a thread that flushes such numbers while it reads them."""
    assert shown(parse(b'{"a": [5e-324, -1e-310, 2.2250738585072014e-308]}').members[0][1]) == (
        "[0.0, -0.0, 2.2250738585072014e-308]"
    )


def test_objects_are_indented_and_lists_stay_on_one_line() -> None:
    document = parse(b'{"a": [1, 2.50], "b": {"c": null, "d": [{"e": true}]}, "f": {}, "g": []}')
    assert shown(document) == (
        '{\n    "a": [1, 2.5],\n    "b": {\n        "c": null,\n        "d": [{\n                "e": true\n'
        '            }]\n    },\n    "f": {},\n    "g": []\n}'
    )


def test_the_text_is_cut_after_the_value_that_passes_256_bytes() -> None:
    long = "x" * 400
    assert shown(parse(f'{{"a": "{long}", "b": 1}}'.encode())) == f'{{\n    "a": "{long}"'


def test_the_text_ends_before_a_number_that_json_cannot_write() -> None:
    assert shown(parse(b'{"a": [1, NaN, 2]}')) == '{\n    "a": [1, '
    assert shown(math.inf) == ""


def test_strings_escape_only_what_json_demands() -> None:
    assert quoted('a"\\\n\x1f/é\x7f') == '"a\\"\\\\\\n\\u001F/é\x7f"'
