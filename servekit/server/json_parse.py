"""The JSON of requests, read as TF Serving reads it: RapidJSON with NaN, trailing text ignored, upstream's error texts.

python-rapidjson is the same parser. Where the Python binding is stricter than upstream (text after the document, bytes
that are not UTF-8, a lone low surrogate, a byte order mark), the bytes are prepared for it and the result turned back.
"""

from __future__ import annotations

import bisect
import math
import re
from typing import Any

import numpy as np
import rapidjson

from servekit.errors import Code, StatusError
from servekit.server.json_deep import parse_deep
from servekit.server.json_value import Object, shown

_BOM = re.compile(rb"\xef?\xbb?\xbf?")  # RapidJSON 1.1 skips these bytes one by one
_ERROR = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_TRAILING = "The document root must not be followed by other values."
_SURROGATE = "The surrogate pair in string is invalid."
_CONTROL_CHARACTER = "Invalid encoding in string."
_TOO_BIG = "Number too big to be stored in double."
_WHITE_SPACE = b" \t\r\n"
_NO_VALUE = (b"}", b"]", b",", b":")  # at the start of a document, upstream's iterative parser sees none
_ESCAPE_BYTES = len("\\udc00")
_SHORTENED_BY = 3  # to UTF-8
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)

_TEXT_OR_POWER = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?)(0|[1-9]\d*)(?:\.(\d+))?[eE]\+?(\d{1,9})', re.DOTALL)
_TEXT_OR_NOT_FINITE = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?)(?:(?:NaN|Inf(?:inity)?)([.eE])|Na?(?=I))', re.DOTALL)
MAX_EXPONENT = 308
_LARGEST, _LARGEST_NEGATIVE = 2**64 - 1, 2**63
_LARGEST_EXACT = 2**53 - 1
_MOST_DIGITS = 17

BEGINNING_BYTES = 1 << 16
LONGEST_TOKEN_BYTES = 1 << 10
"""Of a number, say; an error this near the end of a text that was cut may be the cut's."""

# Bytes that are not UTF-8 pass through the library as characters of the last private plane.
_CARRIER = 0x10FF00
_CARRIED = re.compile("[\U0010ff80-\U0010ffff]")
_CARRIED_BYTES = re.compile(rb"\xf4\x8f[\xbe\xbf][\x80-\xbf]")


class _Decoder(rapidjson.Decoder):
    def start_object(self) -> list[tuple[str, Any]]:
        return []

    def end_object(self, members: list[tuple[str, Any]]) -> Object:
        return Object(members)


_decode = _Decoder(number_mode=rapidjson.NM_NATIVE | rapidjson.NM_NAN)


def parse(body: bytes) -> Object:
    """The object that a request's body is. Raises StatusError INVALID_ARGUMENT with upstream's text and offset."""
    if not body:
        raise _refused("JSON Parse error: The document is empty")
    skipped = _BOM.match(body).end()  # type: ignore[union-attr]  # it matches everything
    document = _parse(body[skipped:] if skipped else body, skipped)
    if not isinstance(document, Object):
        raise _refused(f"JSON Value: {shown(document)} Is not object")
    return document


def _parse(text: bytes, skipped: int) -> Any:
    whole, carrying = text, False
    untamed = b""
    shortened: list[int] = []
    while True:
        try:
            document = _decode(text)
            return _restored(document) if carrying else document
        except RecursionError:
            return parse_deep(whole, lambda part, offset: _parse(part, skipped + offset))
        except UnicodeDecodeError:
            if len(text) > BEGINNING_BYTES:
                ended, document = _parse_beginning(text, skipped)
                if ended:
                    return document
            text, carrying = _with_carriers(text), True
        except rapidjson.JSONDecodeError as error:
            match = _ERROR.fullmatch(str(error))
            if match is None:
                raise _refused(f"JSON Parse error: {error}") from None
            offset, reason = int(match[1]), match[2]
            if (b"N" in text or b"I" in text) and (tamed := _TEXT_OR_NOT_FINITE.sub(_tamed, text)) != text:
                text, untamed = tamed, text
                continue
            if reason == _TRAILING:
                text = text[:offset]
                continue
            if reason == _SURROGATE and (places := _low_surrogates(text)):
                shortened = _without_carriers(text, places) if carrying else places
                text, carrying = _with_carriers(_unescaped(text, places)), True
                continue
            if reason == _TOO_BIG and (infinite := _TEXT_OR_POWER.sub(_infinite, text)) != text:
                text = infinite
                continue
            if reason == _CONTROL_CHARACTER:
                reason = "Invalid escape character in string."
            if not text[:offset].strip(_WHITE_SPACE) and text[offset : offset + 1] in _NO_VALUE:
                reason = "The document is empty."
            while untamed[offset - 1 : offset].strip(_WHITE_SPACE) and text[offset - 1 : offset] == b" ":
                offset -= 1  # to where the word began that was replaced
            offset = len(_CARRIED_BYTES.sub(b"?", text[:offset])) if carrying else offset
            for place in shortened:
                offset += _SHORTENED_BY if place < offset else 0
            raise _refused(f"JSON Parse error: {reason} at offset: {offset + skipped}") from None


def _parse_beginning(text: bytes, skipped: int) -> tuple[bool, Any]:
    """(whether the document ends in the first bytes, the document). Raises StatusError if they are wrong already.

    So a photo sent for JSON, hundreds of megabytes perhaps, is refused for its first byte and not looked at further.
    """
    try:
        return True, _parse(text[:BEGINNING_BYTES], skipped)
    except StatusError as error:
        offset = int(error.message.rpartition(" at offset: ")[2])
        if offset - skipped < BEGINNING_BYTES - LONGEST_TOKEN_BYTES:
            raise
    return False, None


def _with_carriers(text: bytes) -> bytes:
    decoded = text.decode("utf-8", "surrogateescape")
    return b"".join(_carried(decoded[at : at + BEGINNING_BYTES]) for at in range(0, len(decoded), BEGINNING_BYTES))


def _without_carriers(text: bytes, places: list[int]) -> list[int]:
    """Places in a text with carriers, each of four bytes, as places in the text that they stand for."""
    carriers = [match.start() for match in _CARRIED_BYTES.finditer(text)]
    return [place - 3 * bisect.bisect_left(carriers, place) for place in places]


def _carried(text: str) -> bytes:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
    points[(points >= 0xDC80) & (points <= 0xDCFF)] += _CARRIER - 0xDC00
    return str(points.tobytes(), "utf-32-le").encode()


def _low_surrogates(text: bytes) -> list[int]:
    """Where an escaped low surrogate begins that follows no high one."""
    places = []
    pair_end = 0
    for match in _ESCAPE.finditer(text):
        unit = int(match[1], 16) if match[1] else 0
        if 0xD800 <= unit < 0xDC00:
            pair_end = match.end()
        elif 0xDC00 <= unit < 0xE000 and match.start() != pair_end:
            places.append(match.start())
    return places


def _unescaped(text: bytes, places: list[int]) -> bytes:
    """With the three bytes in place of each of these escapes, as which upstream reads it."""
    parts: list[bytes] = []
    end = 0
    for place in places:
        parts += [
            text[end:place],
            chr(int(text[place + 2 : place + _ESCAPE_BYTES], 16)).encode("utf-8", "surrogatepass"),
        ]
        end = place + _ESCAPE_BYTES
    return b"".join([*parts, text[end:]])


def _tamed(match: re.Match[bytes]) -> bytes:
    """What RapidJSON 1.1's `ParseNumber` makes of a number that is not finite and has more before or behind it.

    It has taken in the `N` or `Na` of a NaN when it looks for an Inf, and what has a fraction or an exponent counts as
    the zero digits that there were: `NInf` is infinite, `NaN.5` a half. Offsets stay.
    """
    sign, more = match.groups()
    return match[0] if sign is None else (sign + (b"0" + more if more else b"")).rjust(len(match[0]))


def _infinite(match: re.Match[bytes]) -> bytes:
    """RapidJSON 1.1 refuses by the exponent; what passes that and is still too large, it reads as infinite.

    The token for it has the length of the number's, so that offsets stay.
    """
    token = match[0]
    if match[4] is None:
        return token
    whole, fraction = match[2], match[3] or b""
    if math.isinf(float(whole)):
        return token  # refused before the exponent is seen
    read = _digits_read(whole, fraction, _LARGEST_NEGATIVE if match[1] else _LARGEST)
    power = int(match[4]) - read
    # Multiplied as RapidJSON does it, which is not exact: the largest double with 17 digits is too large for it.
    if power > MAX_EXPONENT or math.isfinite(float(whole + fraction[:read]) * 10.0**power):
        return token
    return (match[1] + b"Inf").ljust(len(token))


def _digits_read(whole: bytes, fraction: bytes, largest: int) -> int:
    """How many digits after the point RapidJSON takes in; those beyond the 17th or so are skipped.

    It counts them without the first one of all, and none where the digits before the point are beyond an integer.
    """
    if len(whole) > len(str(_LARGEST)) or int(whole) > largest:
        return 0
    value, counted = int(whole), len(whole) - 1
    start = 0 if value else len(fraction) - len(fraction.lstrip(b"0"))  # there may be millions
    for place in range(start, len(fraction)):
        if value > _LARGEST_EXACT and counted >= _MOST_DIGITS:
            return place
        value = value * 10 + fraction[place] - ord("0")
        counted += 1
    return len(fraction)


def _restored(value: Any) -> Any:
    if isinstance(value, str):
        return _CARRIED.sub(lambda match: chr(0xDC00 + ord(match[0]) - _CARRIER), value)
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, Object):
        return Object([(_restored(name), _restored(member)) for name, member in value.members])
    return value


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)
