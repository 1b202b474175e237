"""Request bodies against the texts, offsets and liberties of TF Serving's JSON parser."""

from __future__ import annotations

import contextlib
import math
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
        (b'{"a": [2e308, 1 2]}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        (b'{"a": [1.]}', "JSON Parse error: Miss fraction part in number. at offset: 9"),
        (b'{"a": nan}', "JSON Parse error: Invalid value. at offset: 7"),
        (b'{"a": "\t"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\ud83d"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (b'{"a": "\xe9", "b": }', "JSON Parse error: Invalid value. at offset: 16"),
        (b'\xef\xbb\xbf{"a": }', "JSON Parse error: Invalid value. at offset: 9"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b"[" * 100_000, "JSON Parse error: nested deeper than this server reads"),
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
