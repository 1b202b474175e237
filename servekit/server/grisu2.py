"""Grisu2 (Florian Loitsch, "Printing Floating-Point Numbers Quickly and Accurately with Integers", PLDI 2010).

Its digits always read back as the same double, but one time in a thousand they are not the shortest ones that do; error
texts quote numbers with exactly these digits (2**64 is 18446744073709553000.0), so repr() will not do.
"""

from __future__ import annotations

import math

_MASK = (1 << 64) - 1
_SMALLEST_EXPONENT = -1074


def digits(value: float) -> tuple[str, int]:
    """Decimal digits and the power of ten to multiply them with. `value` is positive and finite."""
    significand, exponent = _split(value)
    plus, plus_exponent = _normalized(2 * significand + 1, exponent - 1)
    # Just below a power of two the neighbour is half as far away.
    if significand == 1 << 52:
        minus, minus_exponent = 4 * significand - 1, exponent - 2
    else:
        minus, minus_exponent = 2 * significand - 1, exponent - 1
    minus <<= minus_exponent - plus_exponent
    middle, middle_exponent = _normalized(significand, exponent)

    power, power_exponent, decimal = _cached_power(plus_exponent)
    scaled = _times(middle, power)
    high = _times(plus, power) - 1
    low = _times(minus, power) + 1
    shift = -(middle_exponent + power_exponent + 64)
    text, kappa = _generate(scaled, high, high - low, shift)
    return text, kappa - decimal


def _split(value: float) -> tuple[int, int]:
    """value == significand * 2 ** exponent, with the significand that its double has."""
    fraction, exponent = math.frexp(value)
    exponent = max(exponent - 53, _SMALLEST_EXPONENT)
    return int(math.ldexp(fraction, math.frexp(value)[1] - exponent)), exponent


def _normalized(significand: int, exponent: int) -> tuple[int, int]:
    shift = 64 - significand.bit_length()
    return significand << shift, exponent - shift


def _times(left: int, right: int) -> int:
    """Upper half of the product of two 64-bit numbers, rounded."""
    return (left * right + (1 << 63)) >> 64


def _cached_power(exponent: int) -> tuple[int, int, int]:
    """A power 10 ** k (k a multiple of eight) that brings the product's exponent into Grisu's window; its 64 bits,
    their exponent and k. The choice of k is RapidJSON's.
    """
    estimate = (-61 - exponent) * 0.30102999566398114 + 347
    k = int(estimate)
    if estimate - k > 0:
        k += 1
    decimal = -348 + ((k >> 3) + 1) * 8
    if decimal >= 0:
        power = 10**decimal
        shift = power.bit_length() - 64
        bits = power << -shift if shift <= 0 else (power + (1 << (shift - 1))) >> shift
    else:
        divisor = 10**-decimal
        shift = 63 + divisor.bit_length()
        bits = ((1 << (shift + 1)) // divisor + 1) >> 1
        if bits.bit_length() > 64:
            shift -= 1
            bits = ((1 << (shift + 1)) // divisor + 1) >> 1
        shift = -shift
    return bits & _MASK, shift, decimal


def _generate(scaled: int, high: int, delta: int, shift: int) -> tuple[str, int]:
    """The fewest digits between low and high (= low + delta), nudged towards `scaled`; 2 ** -shift is their unit."""
    one = 1 << shift
    distance = high - scaled
    integer, fraction = high >> shift, high & (one - 1)
    text: list[int] = []
    kappa = len(str(integer))
    while kappa > 0:
        power = 10 ** (kappa - 1)
        digit, integer = divmod(integer, power)
        if digit or text:
            text.append(digit)
        kappa -= 1
        rest = (integer << shift) + fraction
        if rest <= delta:
            _round(text, delta, rest, power << shift, distance)
            return "".join(map(str, text)), kappa
    unit = 1
    while True:
        fraction, delta, unit = fraction * 10, delta * 10, unit * 10
        digit, fraction = fraction >> shift, fraction & (one - 1)
        if digit or text:
            text.append(digit)
        kappa -= 1
        if fraction < delta:
            # RapidJSON 1.1 does not round after nine decimals; its digits then lie towards `high`.
            _round(text, delta, fraction, one, distance * unit if kappa > -9 else 0)
            return "".join(map(str, text)), kappa


def _round(text: list[int], delta: int, rest: int, unit: int, distance: int) -> None:
    while (
        rest < distance
        and delta - rest >= unit
        and (rest + unit < distance or distance - rest > rest + unit - distance)
    ):
        text[-1] -= 1
        rest += unit
