"""Request bodies against the texts, offsets and liberties of TF Serving's JSON parser."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors import Code, StatusError
from servekit.server.json_parse import parse
from servekit.server.json_value import Object


def value_of(body: bytes) -> Any:
    """The value of the member `a`."""
    found, value = parse(body).find("a")
    assert found
    return value


TOO_BIG = "JSON Parse error: Number too big to be stored in double. at offset: "
MISSING_COMMA = "JSON Parse error: Missing a comma or ']' after an array element. at offset: "


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" ", "JSON Parse error: The document is empty. at offset: 1"),
        (b"}", "JSON Parse error: The document is empty. at offset: 0"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a": [1,]}', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": [1 2]}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 9"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1e400}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": 1e309}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        # Of a number's digits those after the point count towards its exponent, unless seventeen are there already.
        (
            b'{"a": 123456789012345678901.5e309}',
            "JSON Parse error: Number too big to be stored in double. at offset: 6",
        ),
        (b'{"a": [12345678901.12345678901234e314, 1 2]}', MISSING_COMMA + "41"),
        (
            b'{"a": [12345678901.12345678901234e316]}',
            "JSON Parse error: Number too big to be stored in double. at offset: 7",
        ),
        (b'{"a": [2e308, 08e308]}', MISSING_COMMA + "15"),
        (b'{"a": ["\\udc00", "\\udc00" 1 2]}', MISSING_COMMA + "26"),
        (b'{"a": ["\xff\\udc00", "\xff\\udc00" 1 2]}', MISSING_COMMA + "28"),
        (b'{"a": [2e308, ' + b"9" * 5000 + b"e1, 0." + b"0" * 5000 + b"1e1 2]}", TOO_BIG + "14"),
        (b'{"a": [2e308, 0.' + b"0" * 5000 + b"1e1 2]}", MISSING_COMMA + "5020"),
        (b'{"a": [2e308, 1 2]}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        (b'{"a": [1.]}', "JSON Parse error: Miss fraction part in number. at offset: 9"),
        (b'{"a": nan}', "JSON Parse error: Invalid value. at offset: 7"),
        (b'{"a": NaN.}', "JSON Parse error: Miss fraction part in number. at offset: 10"),
        (b'{"a": NInfinite}', "JSON Parse error: Invalid value. at offset: 14"),
        (b'{"a": [1Infe5]}', MISSING_COMMA + "8"),
        (b'{"a": [1 NaN.5]}', MISSING_COMMA + "9"),
        (b'{"a": 1, -Infe5}', "JSON Parse error: Missing a name for object member. at offset: 9"),
        (b'{"a": NIn}', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": "\t"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\ud83d"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (b'{"a": "\xe9", "b": }', "JSON Parse error: Invalid value. at offset: 16"),
        (b'\xef\xbb\xbf{"a": }', "JSON Parse error: Invalid value. at offset: 9"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b"[" * 5000, "JSON Parse error: Invalid value. at offset: 5000"),
        (b"[" * 100_001, "JSON Parse error: Nested deeper than 100000 levels. at offset: 100001"),
    ],
)
def test_what_is_not_an_object_gets_upstreams_text_and_offset(body: bytes, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        parse(body)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == text


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1} and more', 1),
        (b'{"a": 1}\0\0', 1),
        (b'\xef\xbb\xbf{"a": 1}', 1),
        (b'{"a": 1, "a": 2}', 1),
        (b'{"a": -Infinity}', -math.inf),
        (b'{"a": Inf}', math.inf),
        (b'{"a": 18446744073709551615}', 2**64 - 1),
        (b'{"a": 18446744073709551616}', 2.0**64),
        (b'{"a": 1e-400}', 0.0),
        (b'{"a": 2e308}', math.inf),
        (b'{"a": "2e308", "b": -1.5e309}', "2e308"),
        (b'\xbb\xbf{"a": 1}', 1),
        # `ParseNumber` of RapidJSON 1.1's reader.h takes in an N before an Inf, and a fraction behind either word.
        (b'{"a": NInf}', math.inf),
        (b'{"a": -NaInfinity}', -math.inf),
        (b'{"a": NaN.5}', 0.5),
        (b'{"a": -Infinity.25e1, "NInf": "NaN.5"}', -2.5),
        (b'{"a": Infe5}', 0.0),
        (b'{"a": "NInf", "b": NInf}', "NInf"),
    ],
)
def test_liberties_of_the_grammar(body: bytes, value: Any) -> None:
    assert value_of(body) == value


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b'{"a": "caf\xe9 \xff"}', b"caf\xe9 \xff"),
        (b'{"a": "\\ude00"}', b"\xed\xb8\x80"),
        (b'{"a": "\\ud83d\\ude00 \\ude00"}', "😀 ".encode() + b"\xed\xb8\x80"),
        (b'{"a": "\\\\ude00"}', b"\\ude00"),
        (b'{"a": "\xe9 \\u00e9"}', b"\xe9 \xc3\xa9"),
    ],
)
def test_bytes_that_are_not_utf8_survive(body: bytes, raw: bytes) -> None:
    assert value_of(body).encode("utf-8", "surrogateescape") == raw


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_status(body: bytes) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(parse(b'{"a": ' + body), Object)


DEEP = 3000


def nested(inner: bytes, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return b'{"a": ' + opening * DEEP + inner + closing * DEEP + b"}"


def innermost(value: Any) -> Any:
    while isinstance(value, list) and value and isinstance(value[-1], (list, Object)):
        value = value[-1]
    return value


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        b'1, -0.5e3, NaN, "\\u00e9]\\"", "\xff", null , true',
        b'{"x": [1, {}], "\xff": 2, "x": "y"}',
        b"\t[ ] ,\r\n[1]",
    ],
)
def test_deep_documents_hold_what_flat_ones_hold(inner: bytes) -> None:
    flat = value_of(b'{"a": [' + inner + b"]}")
    deep = innermost(value_of(nested(inner) + b" and more"))
    assert repr(deep) == repr(innermost(flat))  # NaN is not equal to itself
    found, value = parse(b'{"deep": ' + nested(b"")[6:-1] + b', "a": [' + inner + b"]}").find("a")
    assert found
    assert repr(value) == repr(flat)


def test_objects_may_be_nested_deeply_too() -> None:
    value = value_of(nested(b'"in"', b'{"b": ', b"}"))
    for _ in range(DEEP):
        _, value = value.find("b")
    assert value == "in"


BROKEN = (
    *(b"1 2", b"1,", b",1", b"1_0", b"nul", b"01", b"1.", b"1e400", b'"a', b'"\\q"', b'{"a" 1}', b'{"a": 1', b"{1: 2}"),
    *(b'{"a": 1,}', b'{"a": }', b"1}", b"\xff", b'"\xff" 1', b"+1", b"{", b'{"a": 1 "b": 2}', b"1\0", b'"a\\'),
)


@pytest.mark.parametrize("inner", BROKEN)
def test_deep_documents_are_refused_in_the_same_words_and_places(inner: bytes) -> None:
    def refusal(body: bytes) -> tuple[str, int]:
        with pytest.raises(StatusError) as caught:
            parse(body)
        text, _, offset = caught.value.message.rpartition(" at offset: ")
        return text, int(offset)

    text, offset = refusal(b'{"a": [' + inner + b"]")
    assert refusal(b'{"a": ' + b"[" * DEEP + inner + b"]") == (text, offset + DEEP - 1)


def test_a_photo_sent_for_json_is_refused_for_its_first_byte_however_long_it_is() -> None:
    photo = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 400_000
    for body, offset in ((photo, 0), (b'{"a": ["' + photo, 12)):
        began = time.thread_time()
        with pytest.raises(StatusError, match=f" at offset: {offset}$"):
            parse(body)
        assert time.thread_time() - began < 1


def test_bytes_that_are_no_text_survive_in_long_strings() -> None:
    text = (b"\xff\xe9 \xf0\x9f\x98\x80" * 3 + b"x") * 20_000
    assert value_of(b'{"a": "' + text + b'"}').encode("utf-8", "surrogateescape") == text
    padded = b'{"a": [1, "' + b"y" * 65_530 + b'\xff"], "b" 1}'
    with pytest.raises(StatusError, match=f" at offset: {len(padded) - 2}$"):
        parse(padded)
    assert value_of(b'{"a": "\xff"}' + b"\xfe" * 100_000) == "\udcff"
