"""Floats as TF Serving writes them: six digits where they read back as the same number, else nine or seventeen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

FEW = 32
"""Up to so many numbers plain Python is quicker than setting numpy up."""

_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_FLOAT64_TINY = float(np.finfo(np.float64).tiny)

_PLAIN_LEAST, _POINT_LEAST, _PLAIN_BELOW = np.float32(1e-9), np.float32(1e-4), np.float32(1e6)
"""From the second on six digits have no exponent, with or without the decimals that nine need."""

_POWERS = np.array([float(10**power) for power in range(23)])
"""All powers of ten that doubles hold exactly."""

# orjson writes 1.5e-5 as 0.000015 and 1.5e-6 without a zero before the 6. So such numbers are written with an exponent
# that is five less, e-10 to e-14, which has the length of e-05 to e-09, and is put right in the text.
_SHIFT = 5

_AT_ONCE = 1 << 13
"""So many numbers, with what is computed on the way, fit into a processor's cache."""


def float_tokens(values: NDArray[Any]) -> list[str]:
    """The text of each element of a flat float32 or float64 array; what is too small for a normal number is zero."""
    single = values.dtype == np.float32
    if values.size <= FEW:
        return [_token(value, single) for value in values.tolist()]
    if single:
        return compact_text(values)[1:-1].decode("ascii").split(",")
    doubles = values.astype(np.float64)
    doubles[np.abs(doubles) < _FLOAT64_TINY] *= 0
    return _formatted(doubles, single)


def compact_text(values: NDArray[np.float32]) -> bytes:
    """An array that is not empty as JSON lists without white space.

    Rounds all numbers to six or nine digits at once; the shortest text of such a double has just these digits. What
    orjson writes differently (exponents, infinities), or lies too near the middle of two decimals, is formatted alone.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    rounded = np.empty(flat.size, np.float64)
    for start in range(0, flat.size, _AT_ONCE):
        rounded[start : start + _AT_ONCE] = _rounded(flat[start : start + _AT_ONCE])
    text = orjson.dumps(rounded.reshape(values.shape), option=orjson.OPT_SERIALIZE_NUMPY)
    if b"e" in text:
        text = _with_right_exponents(text)
    others = np.flatnonzero(np.isnan(rounded))
    if not others.size:
        return text
    tokens = _formatted(flat[others].astype(np.float64), single=True)
    between = text.split(b"null")  # as orjson writes what is not a number
    pieces = [piece for pair in zip(between, (token.encode() for token in tokens), strict=False) for piece in pair]
    return b"".join([*pieces, between[-1]])


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The doubles to write; not a number where the text is to be made in another way.

    q / 10 ** k is the double next to that decimal, for both are exact and division rounds correctly.
    """
    size = np.abs(values)
    zero = size < _FLOAT32_TINY
    plain = (size >= _PLAIN_LEAST) & (size < _PLAIN_BELOW)
    size[~plain] = 1
    place = 8 - np.floor(np.log10(size)).astype(np.intp)  # wrong next to powers of ten, which `nine` shows
    power = _POWERS[place]
    exact = size.astype(np.float64)
    scaled = exact * power
    nine = np.rint(scaled)
    plain &= (nine >= 1e8) & (nine < 1e9) & (np.abs(scaled - nine) < 0.5 - 1e-5)
    short = np.rint(exact * (power / 1000))
    is_short = (short / (power / 1000)).astype(np.float32) == size
    if size.min() < _POINT_LEAST:
        plain &= (size >= _POINT_LEAST) | (short < 1e6)  # 9.999999e-05 with six digits is 0.0001
        power = np.where(size < _POINT_LEAST, _POWERS[(place + _SHIFT) % len(_POWERS)], power)
    nine /= power
    short /= power / 1000
    np.copyto(nine, short, where=is_short)
    nine[~plain] = np.nan
    nine[zero] = 0
    rounded: NDArray[np.float64] = np.copysign(nine, values)
    return rounded


def _with_right_exponents(text: bytes) -> bytes:
    characters = np.frombuffer(bytearray(text), np.uint8)
    exponents = np.flatnonzero(characters == ord("e"))
    characters[exponents + 2] = ord("0")  # e-1x
    characters[exponents + 3] += _SHIFT
    return characters.tobytes()


def _formatted(doubles: NDArray[np.float64], single: bool) -> list[str]:
    long = np.isfinite(doubles) & ~_perhaps_six_digits(doubles, single)
    if np.count_nonzero(long) * 2 < long.size:
        return [_token(value, single) for value in doubles.tolist()]
    tokens = _precise(doubles.tolist(), single)
    for index in np.flatnonzero(~long).tolist():
        tokens[index] = _token(float(doubles[index]), single)
    return tokens


def _perhaps_six_digits(doubles: NDArray[np.float64], single: bool) -> NDArray[np.bool_]:
    """False only where six digits certainly do not read back; a number found here is looked at again, exactly."""
    with np.errstate(all="ignore"):
        scale = 10.0 ** (5 - np.floor(np.log10(np.abs(doubles))))
        rounded = np.rint(doubles * scale) / scale
        if single:
            same = rounded.astype(np.float32) == doubles.astype(np.float32)
        else:
            same = np.abs(rounded - doubles) <= np.abs(doubles) * 1e-15
    perhaps: NDArray[np.bool_] = same | ~np.isfinite(scale) | (doubles == 0)
    return perhaps


def _precise(values: list[float], single: bool) -> list[str]:
    """All of them with nine or seventeen digits, formatted at once."""
    text = ("%.9g " if single else "%.17g ") * len(values) % tuple(values)
    tokens = text.split()
    return tokens if text.count(".") == len(tokens) else [_with_point(token) for token in tokens]


def _token(value: float, single: bool) -> str:
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if abs(value) < (_FLOAT32_TINY if single else _FLOAT64_TINY):
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    token = f"{value:g}"
    back = float(token)
    if back != value and not (single and _as_float32(back) == value):
        token = f"{value:.9g}" if single else f"{value:.17g}"
    return _with_point(token)


def _as_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _with_point(token: str) -> str:
    return token if "." in token or "e" in token else token + ".0"
