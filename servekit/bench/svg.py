"""Plots as SVG that needs nothing from elsewhere: lines over a number, bars over names. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 280, 64, 44, 30
_BAR, _GAP = 17, 9

Line = tuple[str, Sequence[tuple[float, float]]]


def lines(
    title: str,
    x_title: str,
    of: Sequence[Line],
    *,
    dots: Sequence[tuple[float, float]] = (),
    limit: tuple[str, float] | None = None,
) -> str:
    """A line for each name. `dots` are points of no line, `limit` a named height."""
    points = [point for _, line in of for point in line] + list(dots)
    if not points:
        return _svg(_WIDTH, 40, [_text(8, 24, f"{title}: none could be told")])
    right = max(x for x, _ in points) or 1.0
    top = _round_up(max([y for _, y in points] + ([limit[1]] if limit else [])))
    right = right if _few(of, dots) else _round_up(right, room=1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / right * (_WIDTH - _LEFT - 20), _HEIGHT - _BOTTOM - y / top * _room()

    parts = [_text(_LEFT, 18, title, bold=True)]
    for tick in range(5):
        y = _HEIGHT - _BOTTOM - tick / 4 * _room()
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:g}" y2="{y:g}" stroke="#e4e4e4"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{top * tick / 4:g}", anchor="end"))
    xs = sorted({x for x, _ in points}) if _few(of, dots) else [right * tick / 4 for tick in range(5)]
    parts += [_text(place(x, 0)[0], _HEIGHT - _BOTTOM + 18, f"{x:g}", anchor="middle") for x in _apart(xs, right)]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_title, anchor="middle"))
    if limit:
        y = place(0, limit[1])[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#888" '
                     'stroke-dasharray="5 4"/>')  # fmt: skip
        parts.append(_text(_WIDTH - 22, y - 5, f"{limit[0]} {limit[1]:g}", anchor="end"))
    for x, y in (place(*dot) for dot in dots):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#999" fill-opacity=".7"/>')
    for number, (name, line) in enumerate(of):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(f'<rect x="{_LEFT + 8}" y="{_TOP + 4 + 17 * number}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(_LEFT + 25, _TOP + 14 + 17 * number, name))
    return _svg(_WIDTH, _HEIGHT, parts)


def bars(title: str, unit: str, of: Mapping[str, Mapping[str, float]]) -> str:
    """A group of bars for each outer name, in it one for each inner name; their lengths compare within the whole."""
    names = list(dict.fromkeys(name for group in of.values() for name in group))
    longest = max((value for group in of.values() for value in group.values()), default=0.0) or 1.0
    left = 16 + 6.6 * max((len(name) for name in of), default=0)
    y = _TOP + 4.0
    parts = [_text(8, 18, title, bold=True)]
    if len(names) > 1:
        x = 8.0
        for number, name in enumerate(names):
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="11" height="11" fill="{_colour(number)}"/>')
            parts.append(_text(x + 16, y + 10, name))
            x += 34 + 6.6 * len(name)
        y += 24
    for group, values in of.items():
        parts.append(_text(left - 8, y + 0.5 * _BAR * len(values) + 4, group, anchor="end"))
        for name, value in values.items():
            length = max(value / longest * 360, 1.0)
            parts.append(
                f'<rect x="{left:.0f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR - 2}" '
                f'fill="{_colour(names.index(name))}"/>'
            )
            parts.append(_text(left + length + 6, y + 12, f"{_short(value)} {unit}".strip()))
            y += _BAR
        y += _GAP
    return _svg(int(left + 470), int(y + 6), parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{html.escape(text)}</text>'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _few(of: Sequence[Line], dots: Sequence[tuple[float, float]]) -> bool:
    """So few places on the x axis that each can have its number."""
    return not dots and len({x for _, line in of for x, _ in line}) <= 6


def _apart(xs: Sequence[float], right: float) -> list[float]:
    """Those that leave room for their numbers."""
    kept: list[float] = []
    for x in xs:
        if not kept or (x - kept[-1]) / right > 0.06:
            kept.append(x)
    return kept


def _room() -> int:
    return _HEIGHT - _BOTTOM - _TOP


def _round_up(value: float, room: float = 1.25) -> float:
    """To 1, 2, 2.5 or 5 times a power of ten, with room for the legend."""
    value = max(value * room, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.9999)
