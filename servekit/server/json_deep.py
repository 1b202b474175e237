"""JSON that is nested deeper than Python's recursion goes: the same grammar, values and errors, with a stack.

The structure is read here, byte by byte; each name, string, number and literal goes to the ordinary parser inside a
list or an object of its own, so that what is wrong with it is said in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from servekit.errors import Code, StatusError
from servekit.server.json_value import Object

MAX_DEPTH = 100_000
"""Some such depth ends TF Serving's process."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OTHER = re.compile(rb'[^\[\]{},: \t\r\n"]+')

Parse = Callable[[bytes, int], Any]
"""The ordinary parser: a text, and what is to be added to the offsets in its errors."""


def parse_deep(text: bytes, parse: Parse) -> Any:
    """The document that `text` begins with. Raises StatusError INVALID_ARGUMENT."""
    at = _skip(text, 0)
    root = _opened(text, at)
    if root is None:
        return parse(text, 0)
    open_: list[Object | list[Any]] = [root]
    at, is_first = at + 1, True
    while open_:
        container = open_[-1]
        at = _skip(text, at)
        if text[at : at + 1] == (b"}" if isinstance(container, Object) else b"]"):
            open_.pop()
            at, is_first = at + 1, False
            continue
        if not is_first:
            _expect(b",", text, at, _MISSING_COMMA[type(container)])
            at = _skip(text, at + 1)
        name = ""
        if isinstance(container, Object):
            _expect(b'"', text, at, "Missing a name for object member.")
            name, at = _scalar(text, at, container, parse)
            at = _skip(text, at)
            _expect(b":", text, at, "Missing a colon after a name of object member.")
            at = _skip(text, at + 1)
        value: Any = _opened(text, at)
        is_first = value is not None
        if is_first:
            open_.append(value)
            at += 1
            if len(open_) > MAX_DEPTH:
                raise _refused(f"Nested deeper than {MAX_DEPTH} levels.", at)
        else:
            value, at = _scalar(text, at, container, parse)
        if isinstance(container, Object):
            container.members.append((name, value))
        else:
            container.append(value)
    return root


_MISSING_COMMA = {
    Object: "Missing a comma or '}' after an object member.",
    list: "Missing a comma or ']' after an array element.",
}


def _skip(text: bytes, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches everything


def _opened(text: bytes, at: int) -> Object | list[Any] | None:
    byte = text[at : at + 1]
    return Object([]) if byte == b"{" else [] if byte == b"[" else None


def _scalar(text: bytes, at: int, container: Object | list[Any], parse: Parse) -> tuple[Any, int]:
    """The name, string, number or literal at `at`, and where it ends."""
    is_string = text[at : at + 1] == b'"'
    match = (_STRING if is_string else _OTHER).match(text, at)
    if match is None and not is_string:
        raise _refused("Invalid value.", at)
    if match is None:
        parse(b"[" + text[at:], at - 1)  # says how the string ends too early
        raise AssertionError("a string without an end was read")
    if isinstance(container, Object):
        value = parse(b'{"":' + match[0] + b"}", at - 4).members[0][1]
    else:
        (value,) = parse(b"[" + match[0] + b"]", at - 1)
    return value, match.end()


def _expect(byte: bytes, text: bytes, at: int, otherwise: str) -> None:
    if text[at : at + 1] != byte:
        raise _refused(otherwise, at)


def _refused(text: str, offset: int) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: {text} at offset: {offset}")
