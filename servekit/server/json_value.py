"""JSON values as RapidJSON has them: objects keep the order of their members, and duplicates.

null, true, false, int (int64 or uint64), float, str and list are Python's own. Strings are UTF-8 with
`surrogateescape`: bytes that are not UTF-8 survive the way in and out, as they do upstream.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from typing import Any

INDENT = " " * 4


@dataclass(frozen=True, slots=True)
class Object:
    """Members in the order of the text; of two with the same name, `find` returns the first."""

    members: list[tuple[str, Any]]

    def find(self, name: str) -> tuple[bool, Any]:
        """(is there one, its value)"""
        for key, value in self.members:
            if key == name:
                return True, value
        return False, None

    def base64_text(self) -> str | None:
        """The text of an object of the form {"b64": "..."}, else None."""
        if len(self.members) == 1 and self.members[0][0] == "b64" and isinstance(self.members[0][1], str):
            return self.members[0][1]
        return None


def type_name(value: Any) -> str:
    """RapidJSON's name for the kind of value, as error texts show it."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    names = {Object: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def quoted(text: str) -> str:
    """A JSON string; only what JSON demands is escaped."""
    return '"' + _MUST_BE_ESCAPED.sub(_escape, text) + '"'


def shown(value: Any) -> str:
    """The value as upstream quotes it in an error: indented objects, lists on one line.

    RapidJSON's writer refuses NaN and infinities and then stops: the text ends before the first of them.
    """
    parts: list[str] = []
    with contextlib.suppress(_NotANumberError):
        _write(value, 0, parts)
    return "".join(parts)


class _NotANumberError(Exception):
    pass


def _write(value: Any, level: int, parts: list[str]) -> None:
    if isinstance(value, Object):
        separator = "{"
        for name, member in value.members:
            parts.append(f"{separator}\n{INDENT * (level + 1)}{quoted(name)}: ")
            _write(member, level + 1, parts)
            separator = ","
        parts.append(f"\n{INDENT * level}}}" if value.members else "{}")
    elif isinstance(value, list):
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(", ")
            _write(item, level + 1, parts)
        parts.append("]")
    elif isinstance(value, str):
        parts.append(quoted(value))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _NotANumberError
        parts.append(shortest(value))
    elif isinstance(value, bool) or value is None:
        parts.append({None: "null", True: "true", False: "false"}[value])
    else:
        parts.append(str(value))


def shortest(value: float) -> str:
    """The number as RapidJSON's writer prints a double: Grisu2's digits, an exponent outside 1e-7 .. 1e21."""
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    from servekit.server.grisu2 import digits

    sign = "-" if value < 0 else ""
    text, exponent = digits(abs(value))
    point = len(text) + exponent  # 10 ** (point - 1) <= value < 10 ** point
    if exponent >= 0 and point <= 21:
        return f"{sign}{text}{'0' * exponent}.0"
    if 0 < point <= 21:
        return f"{sign}{text[:point]}.{text[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{text}"
    mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
    return f"{sign}{mantissa}e{point - 1}"


_MUST_BE_ESCAPED = re.compile(r'[\x00-\x1f"\\]')
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04X}"
