"""From what was measured to what is thought of it: one check a line, and a verdict over all. Pure.

A check without data waits: it neither fails a canary nor lets it go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from servekit.analysis.tally import Tally, above, chance_of_excess, chance_of_tail, quantile
from servekit.config.canary import Analysis, Query

Result = Literal["pass", "fail", "no data"]

SURE = 1000
"""Requests of each label from which a p99 is taken as it is; with fewer, chance has to be ruled out."""
UNLIKELY = 0.01
"""What happens by chance less often than this is not chance."""


@dataclass(frozen=True, slots=True)
class Check:
    """`name` is its key in the section `analysis`, such as success_rate or gates.review; `text` is for a person."""

    name: str
    result: Result
    value: float | None
    bound: str
    text: str

    def __str__(self) -> str:
        """`success rate 99.8 % (≥ 99): 1203 requests`."""
        unit = " %" if self.name == "success_rate" else ""
        number = "" if self.value is None else f" {self.value:.4g}{unit}"
        bound = f" ({self.bound})" if self.bound else ""
        head = f"{self.name.replace('_', ' ')}{number}{bound}"
        return f"{head}: {self.text}" if self.text else head

    def document(self) -> dict[str, Any]:
        finite = self.value is not None and math.isfinite(self.value)
        return {
            "name": self.name,
            "result": self.result,
            "value": self.value if finite else None,
            "bound": self.bound,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """`at`: ISO 8601, UTC. `str()` has one line a check."""

    result: Result
    checks: tuple[Check, ...]
    at: str = ""

    def __str__(self) -> str:
        return "\n".join(f"{check.result:8}{check}" for check in self.checks) or "pass    nothing is checked"

    @property
    def reason(self) -> str:
        """The checks that decided, in one line: what failed, or what has no data, or what passed."""
        return "; ".join(str(check) for check in self.checks if check.result == self.result)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"result": self.result, "at": self.at, "checks": [check.document() for check in self.checks]}


def read(document: Mapping[str, Any]) -> Verdict:
    """What `document()` gave. Raises KeyError or TypeError for anything else."""
    checks = tuple(Check(**check) for check in document["checks"])
    return Verdict(document["result"], checks, document["at"])


@dataclass(frozen=True, slots=True)
class NoData:
    """Why there is nothing to judge."""

    why: str


@dataclass(frozen=True, slots=True)
class Window:
    """What both labels answered in the same `seconds`."""

    stable: Tally
    canary: Tally
    seconds: float


@dataclass(frozen=True, slots=True)
class Agreed:
    """`same` of `asked` answers are alike, in the sense of `kind`; `differing` shows some that are not."""

    same: int
    asked: int
    kind: str
    differing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Samples that stable itself could not answer, and why."""
    fault: str = ""
    """Of canary's preprocessing, as `analysis.faults` tells it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a gate: whether it agrees, and its own words."""

    passed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was measured. `traffic` and `latency` begin where the check that they are for last had a result."""

    traffic: Window | NoData = NoData("not measured")
    latency: Window | NoData = NoData("not measured")
    agreement: Agreed | NoData = NoData("not measured")
    queries: Mapping[str, float | NoData] = field(default_factory=dict)
    gates: Mapping[str, Answer] = field(default_factory=dict)
    at: str = ""


def judge(analysis: Analysis, readings: Readings) -> Verdict:
    """Any check fails: fail. Otherwise any has no data: no data. Otherwise pass; what is off is no check."""
    checks = tuple(_checks(analysis, readings))
    results = {check.result for check in checks}
    result: Result = "fail" if "fail" in results else "no data" if "no data" in results else "pass"
    return Verdict(result, checks, readings.at)


def _checks(analysis: Analysis, readings: Readings) -> Iterator[Check]:
    if not isinstance(analysis.success_rate, str):
        yield success_rate(readings.traffic, analysis.success_rate, analysis.min_requests)
    if not isinstance(analysis.p99_ratio, str):
        yield p99_ratio(readings.latency, analysis.p99_ratio, analysis.min_requests)
    if not isinstance(analysis.agreement.minimum, str):
        yield agreement(readings.agreement, analysis.agreement.minimum)
    for name, query in analysis.queries.items():
        yield _query(f"queries.{name}", query, readings.queries.get(name, NoData("not asked")))
    for name in analysis.gates:
        answer = readings.gates.get(name)
        yield _gate(f"gates.{name}", answer)


def success_rate(window: Window | NoData, minimum: float, min_requests: int) -> Check:
    """Percent of the canary's requests that succeeded.

    Refusals that blame the client count only as far as stable refuses clearly less: a canary with another signature
    answers INVALID_ARGUMENT to requests that stable takes, while a client's own mistakes fail on both.
    """
    name, bound = "success_rate", f"≥ {minimum:g}"
    if isinstance(window, NoData):
        return Check(name, "no data", None, bound, window.why)
    stable, canary = window.stable, window.canary
    if canary.requests < max(1, min_requests):
        return Check(name, "no data", None, bound, _too_few(canary.requests, max(1, min_requests), "canary"))
    refused = 0.0
    chance = chance_of_excess(canary.client_errors, canary.requests, stable.client_errors, stable.requests)
    if chance < UNLIKELY:
        refused = canary.client_errors - stable.client_errors / stable.requests * canary.requests
    value = 100 * (1 - (canary.server_errors + refused) / canary.requests)
    text = f"{canary.requests:.0f} requests in {window.seconds:.0f} s"
    if canary.server_errors:
        text += f", {canary.server_errors:.0f} failed"
    if refused:
        text += f", {canary.client_errors:.0f} refused, of which stable would have taken {refused:.0f}"
    return Check(name, "pass" if value >= minimum else "fail", value, bound, text)


def p99_ratio(window: Window | NoData, maximum: float, min_requests: int) -> Check:
    """The canary's p99 latency divided by stable's.

    The p99 of 30 requests is the slowest of them. Below SURE requests a ratio above the bound fails only when more of
    the canary's requests than chance explains took longer than `maximum` times stable's p99; otherwise it waits.
    """
    name, bound = "p99_ratio", f"≤ {maximum:g}"
    if isinstance(window, NoData):
        return Check(name, "no data", None, bound, window.why)
    for label, traffic in (("canary", window.canary), ("stable", window.stable)):
        if traffic.timed < max(1, min_requests):
            return Check(name, "no data", None, bound, _too_few(traffic.timed, max(1, min_requests), label))
    stable, canary = quantile(window.stable.buckets, 0.99), quantile(window.canary.buckets, 0.99)
    if not stable or canary is None:
        return Check(name, "no data", None, bound, "stable's p99 is 0 ms")
    value = canary / stable
    text = f"canary {canary:.3g} ms, stable {stable:.3g} ms, {window.canary.timed:.0f} requests"
    if value <= maximum:
        return Check(name, "pass", value, bound, text)
    if min(window.canary.timed, window.stable.timed) < SURE:
        slow = above(window.canary.buckets, maximum * stable)
        if chance_of_tail(slow, window.canary.timed, 0.01) >= UNLIKELY:
            return Check(name, "no data", value, bound, f"{text}: may be chance, waiting for more")
    return Check(name, "fail", value, bound, text)


def agreement(agreed: Agreed | NoData, minimum: float) -> Check:
    """Share of the samples to which both labels answered alike. With a clear fault of the preprocessing no share is
    enough."""
    name, bound = "agreement", f"≥ {minimum:g}"
    if isinstance(agreed, NoData):
        return Check(name, "no data", None, bound, agreed.why)
    left_out = f"; {len(agreed.left_out)} left out ({agreed.left_out[0]})" if agreed.left_out else ""
    if not agreed.asked:
        return Check(name, "no data", None, bound, f"no sample to which stable has an answer{left_out}")
    value = agreed.same / agreed.asked
    text = f"{agreed.same} of {agreed.asked} {agreed.kind} alike"
    if agreed.differing:
        text += f"; {'; '.join(agreed.differing)}"
    if agreed.fault:
        text += f"; {agreed.fault}; if it is meant to be so: analysis.agreement.faults: false"
    passed = value >= minimum and not agreed.fault
    return Check(name, "pass" if passed else "fail", value, bound, text + left_out)


def _query(name: str, query: Query, value: float | NoData) -> Check:
    limits = (("≥", query.minimum), ("≤", query.maximum))
    bound = ", ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)
    if isinstance(value, NoData):
        return Check(name, "no data", None, bound, value.why)
    low = query.minimum is not None and value < query.minimum
    high = query.maximum is not None and value > query.maximum
    return Check(name, "fail" if low or high else "pass", value, bound, "")


def _gate(name: str, answer: Answer | None) -> Check:
    if answer is None:
        return Check(name, "no data", None, "", "not asked")
    return Check(name, "pass" if answer.passed else "fail", None, "", answer.text)


def _too_few(requests: float, needed: int, label: str) -> str:
    counted = f"{requests:.0f} request{'' if round(requests) == 1 else 's'}"
    return f"{counted} of {label} so far, {needed} are needed"
