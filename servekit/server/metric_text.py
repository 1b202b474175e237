"""Prometheus' text format in TF Serving's manner: families sorted, TYPE lines without HELP, no `_total`."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from servekit.monitoring.samples import Sample, kind


class Family(Protocol):
    """What stands on the page under one name; `kind` is `counter`, `gauge` or `histogram`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def lines(self) -> list[str]:
        """Its samples."""
        ...

    def first_point(self) -> int:
        """What TF Serving calls the value of a metric: that of its first labels, in their order; 0 of a histogram."""
        ...

    def is_shown(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Empty:
    """A family that upstream shows although nothing was counted in it."""

    name: str
    kind: str

    def lines(self) -> list[str]:
        return []

    def first_point(self) -> int:
        return 0

    def is_shown(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Collected:
    """A metric of prometheus-client, whose children are read directly.

    Its collect() makes an object of every bucket, which takes 60 ms for fifty models where this takes 3. A `quiet`
    family is shown only once it has samples, as upstream registers it late; `exact` sums have all digits, not six.
    """

    name: str
    kind: str
    metric: Any
    quiet: bool = False
    exact: bool = False

    def lines(self) -> list[str]:
        lines: list[str] = []
        for labels, child in self._children():
            if self.kind == "histogram":
                counts = [int(bucket._value) for bucket in child._buckets]
                total = _number(child._sum.get()) if self.exact else f"{child._sum.get():g}"
                lines += histogram_lines(self.name, labels, child._upper_bounds, counts, total)
            else:
                lines.append(f"{self.name}{{{labels}}} {_number(child._value.get())}")
        return lines

    def first_point(self) -> int:
        if self.kind == "histogram":
            return 0
        if not self.metric._labelnames:
            return int(self.metric._value.get())
        points = list(self.metric._metrics.items())
        return int(min(points, key=lambda point: point[0])[1]._value.get()) if points else 0

    def is_shown(self) -> bool:
        return not self.quiet or any(_count(child, self.kind) for _, child in self._children())

    def _children(self) -> list[tuple[str, Any]]:
        names = self.metric._labelnames
        if not names:  # upstream makes the one sample when it counts first
            return [("", self.metric)] if _count(self.metric, self.kind) else []
        return [(_labels(names, values), child) for values, child in list(self.metric._metrics.items())]


@dataclass(frozen=True, slots=True)
class Told:
    """One of servekit.monitoring's families; its samples are those of `told` that bear its name."""

    name: str
    labels: Sequence[str]
    told: Sequence[Sample]

    @property
    def kind(self) -> str:
        return kind(self.name)

    def lines(self) -> list[str]:
        return [
            f"{self.name}{{{','.join(map(_pair, self.labels, sample.labels))}}} {_number(sample.value)}"
            for sample in self.told
            if sample.family == self.name
        ]

    def first_point(self) -> int:
        return 0

    def is_shown(self) -> bool:
        return any(sample.family == self.name for sample in self.told)


def page(families: Iterable[Family]) -> str:
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        if family.is_shown():
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += family.lines()
    return "\n".join(lines) + "\n"


def histogram_lines(name: str, labels: str, bounds: Sequence[float], counts: Sequence[int], total: str) -> list[str]:
    """`labels` is their text; `bounds` end with infinity; `counts` are of each bucket alone; `total` is the sum."""
    counts_up_to = list(itertools.accumulate(counts))
    return [_histogram_text(name, labels, tuple(bounds)) % (*counts_up_to, total, counts_up_to[-1])]


@functools.lru_cache(1024)
def _histogram_text(name: str, labels: str, bounds: tuple[float, ...]) -> str:
    """With a place for each number."""
    inside = f"{labels}," if labels else ""
    lines = [f'{name}_bucket{{{inside}le="{_bound(bound)}"}} ' for bound in bounds]
    lines += [f"{name}_sum{{{labels}}} ", f"{name}_count{{{labels}}} "]
    return "\n".join(line.replace("%", "%%") + "%s" for line in lines)


def _count(child: Any, kind: str) -> float:
    if kind == "histogram":
        return float(sum(bucket.get() for bucket in child._buckets))
    return float(child._value.get())


@functools.cache
def _bound(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:g}"


@functools.lru_cache(4096)
def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(map(_pair, names, values))


def _pair(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
