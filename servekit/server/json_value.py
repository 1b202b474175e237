"""JSON values as RapidJSON has them: objects keep the order of their members, and duplicates.

null, true, false, int (int64 or uint64), float, str and list are Python's own. Strings are UTF-8 with
`surrogateescape`: bytes that are not UTF-8 survive the way in and out, as they do upstream.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
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


def c_string(name: str) -> str:
    """A member's name where upstream reads it as a C string: up to the first NUL."""
    return name.partition("\0")[0]


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
    """The value as upstream quotes it in an error: indented objects, lists on one line, cut after some 256 bytes.

    What is begun below the limit is written whole. RapidJSON's writer refuses NaN and infinities: there the text ends.
    """
    writer = _Writer()
    with contextlib.suppress(_EndOfTextError):
        writer.write(value, 0)
    return "".join(writer.parts)


MAX_SHOWN_BYTES = 256


class _EndOfTextError(Exception):
    pass


class _Writer:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self._size = 0

    def write(self, value: Any, level: int, prefix: str = "") -> None:
        if isinstance(value, Object):
            self._add(f"{prefix}{{")
            separator = ""
            for name, member in value.members:
                self._add(f"{separator}\n{INDENT * (level + 1)}{quoted(name)}")
                self.write(member, level + 1, ": ")
                separator = ","
            self._add(f"\n{INDENT * level}}}" if value.members else "}")
        elif isinstance(value, list):
            self._add(f"{prefix}[")
            for index, item in enumerate(value):
                self.write(item, level + 1, ", " if index else "")
            self._add("]")
        elif isinstance(value, float) and not math.isfinite(value):
            self._add(prefix)
            raise _EndOfTextError
        else:
            self._add(prefix + _scalar(value))

    def _add(self, text: str) -> None:
        if self._size >= MAX_SHOWN_BYTES:
            raise _EndOfTextError
        self.parts.append(text)
        self._size += len(text.encode("utf-8", "surrogateescape"))


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):  # TF Serving's threads read what is too small for a normal number as zero
        return shortest(value if abs(value) >= sys.float_info.min else math.copysign(0.0, value))
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


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
