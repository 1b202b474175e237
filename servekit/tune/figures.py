"""What one load on one setting measured, and which of two settings is better. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from servekit.bench.traffic import Sample

MAX_ERRORS = 0.01
"""Share of failed requests above which a setting cannot win: refusing is the quickest answer of all."""
CLEARLY_WORSE, WORSE, BETTER = 0.88, 0.97, 1.02
"""Ratios of scores: after one pair, after two, and in the end. On a machine that does other things, too, pairs of one
setting with itself lie between 0.93 and 1.07, their medians of four within 2 %."""
PAIRS = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """`latencies` are of good answers. `cpu_ms`: the server's processor time for a request; None where unknown."""

    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float
    cpu_ms: float | None
    seconds: float
    client_bound: bool = False
    others_cpu: float = 0.0
    """Cores that neither the server nor the generator used."""

    def share(self, slo_p99_ms: float | None) -> float:
        """Of the answers, what the objective lets count: 1 where p99 keeps it, 0 where too many requests failed.

        A server that is late would answer in time with fewer clients: by Little's law latency falls as their number
        does, so the share is how much of the latency is allowed.
        """
        if self.p99_ms is None or self.error_rate > MAX_ERRORS:
            return 0.0
        return min(1.0, slo_p99_ms / self.p99_ms) if slo_p99_ms else 1.0

    def document(self) -> dict[str, Any]:
        return asdict(self)


def figures_of(
    sample: Sample, cpu_s: float | None, machine_s: float | None, loaded_s: float, batch: int, bound_at: float
) -> Figures:
    """`cpu_s`: of the server over `loaded_s` seconds of load, warm-up and all; `machine_s`: of everything that ran.
    `bound_at`: cores of the generator."""
    good, count = len(sample.latencies_s), max(sample.requests, 1)
    p50, p99 = (np.percentile(sample.latencies_s, [50, 99]) * 1e3).tolist() if good else (None, None)
    per_second = good / sample.seconds
    return Figures(
        per_second=round(per_second * batch, 2),
        p50_ms=None if p50 is None else round(p50, 2),
        p99_ms=None if p99 is None else round(p99, 2),
        error_rate=round(sum(sample.errors.values()) / count, 4) if sample.requests else 1.0,
        cpu_ms=None if cpu_s is None or not good else round(cpu_s / loaded_s / (per_second * batch) * 1e3, 3),
        seconds=sample.seconds,
        client_bound=sample.cpu > bound_at,
        others_cpu=0.0
        if cpu_s is None or machine_s is None
        else round(max((machine_s - cpu_s) / loaded_s - sample.cpu, 0.0), 2),
    )


def pair_ratios(challenger: Sequence[Figures], champion: Sequence[Figures], slo_p99_ms: float | None) -> list[float]:
    """Challenger to champion, pair by pair: answers a second that the objective lets count.

    The objective is held against the median of a side's rounds: p99 of one round is that of its few slowest requests.
    """
    ours, theirs = together(challenger).share(slo_p99_ms), together(champion).share(slo_p99_ms)
    return [
        _ratio(one.per_second * ours, other.per_second * theirs)
        for one, other in zip(challenger, champion, strict=True)
    ]


def verdict(ratios: Sequence[float]) -> bool | None:
    """Whether the challenger won, from pairs that took turns; None: another pair has to tell.

    Stops early where the answer is clear, so that most of the time goes to the settings that are close.
    """
    if ratios[0] < CLEARLY_WORSE or (len(ratios) >= 2 and max(ratios) < WORSE):
        return False
    if len(ratios) == 3 and min(ratios) > BETTER:
        return True
    return None if len(ratios) < PAIRS else statistics.median(ratios) > BETTER


def together(parts: Sequence[Figures]) -> Figures:
    """Medians of several rounds, each as it was."""

    def middle(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else round(statistics.median(values), 3)

    return Figures(
        per_second=middle("per_second") or 0.0,
        p50_ms=middle("p50_ms"),
        p99_ms=middle("p99_ms"),
        error_rate=middle("error_rate") or 0.0,
        cpu_ms=middle("cpu_ms"),
        seconds=round(sum(part.seconds for part in parts), 2),
        client_bound=any(part.client_bound for part in parts),
        others_cpu=middle("others_cpu") or 0.0,
    )


def _ratio(one: float, other: float) -> float:
    """Against nothing anything is twice as good; two nothings are alike."""
    if other:
        return one / other
    return 2.0 if one else 1.0
