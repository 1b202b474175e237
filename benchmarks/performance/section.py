"""What a part of the measurement says: rows, ratios with their goals, a plot. As JSON in docs/performance.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from servekit.tune.figures import Figures

Cell = str | float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of `pairs`, which were measured in turn. `least` or `most` is its goal, if it has one."""

    name: str
    value: float
    pairs: tuple[float, ...] = ()
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True, slots=True)
class Plot:
    """`lines`: points (x, y) by name, `unit` is on the x axis; `bars`: values by group and name, in `unit`."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    bars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    ratios: tuple[Ratio, ...]
    plot: Plot
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Skipped(Exception):
    """What is missing for a section here, and how to get it."""


def in_pairs(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Ratio:
    pairs = tuple(round(one / other, 3) for one, other in zip(ours, theirs, strict=True) if other)
    return Ratio(name, round(statistics.median(pairs), 3) if pairs else 0.0, pairs, least, most)


def column(figures: Sequence[Figures], name: str) -> list[float]:
    return [float(getattr(one, name) or 0.0) for one in figures]


def in_turn(sides: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """Each side once a round, every other round in reverse, after a round that does not count: a server prepares its
    kernels when it first sees a number of rows. Raises RuntimeError when requests fail."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for first in sides.values():
        first()
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            one = sides[name]()
            if one.error_rate > 0:
                raise RuntimeError(f"{name}: {one.error_rate:.1%} of the requests failed")
            found[name].append(one)
    return found
