"""Requests of one label in a window of time: how many, how they ended, how long they took. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Buckets = tuple[tuple[float, float], ...]
"""Upper bound in ms (the last is infinite) and how many took at most that long, ascending, cumulative."""


@dataclass(frozen=True, slots=True)
class Tally:
    """`requests` were answered; of them `server_errors` and `client_errors` failed, by whose fault the status says."""

    requests: float = 0.0
    server_errors: float = 0.0
    client_errors: float = 0.0
    buckets: Buckets = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.server_errors + other.server_errors,
            self.client_errors + other.client_errors,
            merged([self.buckets, other.buckets]),
        )

    def __sub__(self, earlier: Tally) -> Tally:
        """What came since `earlier`, of ever growing totals."""
        counts = dict(earlier.buckets)
        return Tally(
            self.requests - earlier.requests,
            self.server_errors - earlier.server_errors,
            self.client_errors - earlier.client_errors,
            tuple((bound, count - counts.get(bound, 0.0)) for bound, count in self.buckets),
        )

    @property
    def timed(self) -> float:
        """Requests whose latency is known."""
        return self.buckets[-1][1] if self.buckets else 0.0


def since(before: Tally, now: Tally) -> Tally:
    """Between two readings of counters. Where one went down, the process was started anew: `now` is all there is."""
    counts = dict(now.buckets)
    fell = any(counts.get(bound, 0.0) < count for bound, count in before.buckets)
    fell = fell or now.requests < before.requests
    fell = fell or now.server_errors < before.server_errors or now.client_errors < before.client_errors
    return now if fell else now - before


def merged(histograms: Iterable[Buckets]) -> Buckets:
    """The sum of histograms. One that lacks a bound counts there what it has at its next lower one."""
    known = [buckets for buckets in histograms if buckets]
    bounds = sorted({bound for buckets in known for bound, _ in buckets})
    return tuple((bound, sum(_at_bound(buckets, bound) for buckets in known)) for bound in bounds)


def _at_bound(buckets: Buckets, bound: float) -> float:
    return next((count for upper, count in reversed(buckets) if upper <= bound), 0.0)


def quantile(buckets: Buckets, share: float) -> float | None:
    """In ms, as Prometheus' histogram_quantile: linear inside a bucket, from the last finite bound on that bound.

    None where nothing was counted.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            if math.isinf(upper):
                return lower
            inside = count - below
            return lower + (upper - lower) * ((rank - below) / inside if inside > 0 else 1.0)
        lower, below = upper, count
    return lower


def above(buckets: Buckets, ms: float) -> float:
    """How many took longer than `ms`, linear inside a bucket."""
    total = buckets[-1][1] if buckets else 0.0
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if ms <= upper:
            if math.isinf(upper):
                return total - below
            return total - (below + (count - below) * (ms - lower) / (upper - lower))
        lower, below = upper, count
    return 0.0


def chance_of_tail(count: float, requests: float, share: float) -> float:
    """Probability that at least `count` of `requests` are such as a `share` of all is: the binomial tail."""
    n, k = round(requests), math.ceil(count - 1e-9)
    if k <= 0 or share >= 1:
        return 1.0
    below = sum(
        math.exp(_log_choose(n, i) + i * math.log(share) + (n - i) * math.log1p(-share)) for i in range(min(k, n + 1))
    )
    return max(0.0, 1.0 - below)


def chance_of_excess(mine: float, my_requests: float, others: float, other_requests: float) -> float:
    """Probability of `mine` or more of all the marked ones, if both groups are marked alike (Fisher's exact test)."""
    n, m = round(my_requests), round(other_requests)
    k, marked = round(mine), round(mine) + round(others)
    if k <= 0 or n + m <= 0:
        return 1.0
    all_ways = _log_choose(n + m, marked)
    likely = (_log_choose(n, i) + _log_choose(m, marked - i) - all_ways for i in range(k, min(n, marked) + 1))
    return min(1.0, sum(math.exp(one) for one in likely))


def _log_choose(n: int, k: int) -> float:
    if k < 0 or k > n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
