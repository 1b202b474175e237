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

_PLAIN_LEAST, _PLAIN_BELOW = 1e-4, 1e6
"""Here six digits have no exponent, with or without the decimals that nine need."""

_POWERS = np.array([float(10**power) for power in range(13)])


def float_tokens(values: NDArray[Any]) -> list[str]:
    """The text of each element of a flat float32 or float64 array; what is too small for a normal number is zero."""
    single = values.dtype == np.float32
    if values.size <= FEW:
        return [_token(value, single) for value in values.tolist()]
    doubles = values.astype(np.float64)
    doubles[np.abs(doubles) < (_FLOAT32_TINY if single else _FLOAT64_TINY)] *= 0
    return _single_tokens(doubles) if single else _formatted(doubles, single)


def _formatted(doubles: NDArray[np.float64], single: bool) -> list[str]:
    long = np.isfinite(doubles) & ~_perhaps_six_digits(doubles, single)
    if np.count_nonzero(long) * 2 < long.size:
        return [_token(value, single) for value in doubles.tolist()]
    tokens = _precise(doubles.tolist(), single)
    for index in np.flatnonzero(~long).tolist():
        tokens[index] = _token(float(doubles[index]), single)
    return tokens


def _single_tokens(doubles: NDArray[np.float64]) -> list[str]:
    """Rounds all numbers to six or nine digits at once; the shortest text of such a double has just these digits.

    q / 10 ** k is the double next to that decimal, for both are exact and division rounds correctly. What lies outside
    the plain notation's range, or too near the middle of two decimals, is formatted as text.
    """
    size = np.abs(doubles)
    plain = (size >= _PLAIN_LEAST) & (size < _PLAIN_BELOW)
    size[~plain] = 1.0
    exponent = np.floor(np.log10(size)).astype(np.int64)
    scaled = size * _POWERS[8 - exponent]
    nine = np.rint(scaled)
    plain &= (nine >= 1e8) & (nine < 1e9) & (np.abs(scaled - np.floor(scaled) - 0.5) > 1e-5)
    short = np.rint(size * _POWERS[5 - exponent]) / _POWERS[5 - exponent]
    rounded = np.where(short.astype(np.float32) == size.astype(np.float32), short, nine / _POWERS[8 - exponent])
    text = orjson.dumps(np.copysign(rounded, doubles), option=orjson.OPT_SERIALIZE_NUMPY)
    tokens = text[1:-1].decode("ascii").split(",")
    others = np.flatnonzero(~plain)
    for index, token in zip(others.tolist(), _formatted(doubles[others], single=True), strict=True):
        tokens[index] = token
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
