"""Why a binary protobuf cannot be parsed: is its end missing, or is it something else?"""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def is_cut_short(data: bytes) -> bool:
    """Whether the bytes are the beginning of a message: its last outermost field ends after them.

    https://protobuf.dev/programming-guides/encoding
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if position > len(data):
            return True
        if tag >> 3 == 0 or kind not in (_VARINT, _LENGTH_DELIMITED, *_FIXED_BYTES):
            return False
        if kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            value, position = _varint(data, position)
            position += value if kind == _LENGTH_DELIMITED else 0
    return position > len(data)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number and where it ends; beyond the data if it is cut."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return value, len(data) + 1
