"""What follows from a verdict: the next weight, promotion, rollback, or nothing yet. Pure.

The words and the order are Flagger's: each passed check adds the step weight, one that passes at the highest weight
promotes, and so many failed ones roll back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from servekit.analysis.verdict import Verdict, read
from servekit.config.canary import Canary, seconds


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the analysis of one canary is; kept in the history's file, so that a killed controller loses nothing.

    `checked_at`: seconds since 1970 of the last check, or of the moment when the canary got its first requests;
    `failed`: checks that failed so far.
    """

    stable: int
    canary: int
    checked_at: float
    failed: int = 0
    verdict: Verdict | None = None

    def is_about(self, stable: int | None, canary: int | None) -> bool:
        return (self.stable, self.canary) == (stable, canary)

    def after(self, verdict: Verdict, at: float) -> Progress:
        failed = self.failed + (verdict.result == "fail")
        return replace(self, checked_at=at, failed=failed, verdict=verdict)

    def is_due(self, canary: Canary, now: float) -> bool:
        """A clock that was set back makes it due rather than wait for the old time."""
        return not 0 <= now - self.checked_at < seconds(canary.analysis.interval)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "stable": self.stable,
            "canary": self.canary,
            "checked_at": self.checked_at,
            "failed": self.failed,
            "verdict": self.verdict.document() if self.verdict else None,
        }


def read_progress(document: Mapping[str, Any]) -> Progress:
    """What `document()` gave. Raises KeyError or TypeError for anything else."""
    verdict = document["verdict"]
    return Progress(
        int(document["stable"]),
        int(document["canary"]),
        float(document["checked_at"]),
        int(document["failed"]),
        read(verdict) if verdict is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Hold:
    """Everything stays; `why` is for people."""

    why: str


@dataclass(frozen=True, slots=True)
class SetWeight:
    weight: int
    why: str


@dataclass(frozen=True, slots=True)
class Promote:
    why: str


@dataclass(frozen=True, slots=True)
class RollBack:
    reason: str


Action = Hold | SetWeight | Promote | RollBack

_NEED_REQUESTS = ("success_rate", "p99_ratio", "queries.")
"""Checks that have no data before the canary gets requests. A gate, samples or a broken check have no such excuse."""


def advance(canary: Canary, progress: Progress, verdict: Verdict) -> Action:
    """`progress` knows of `verdict` already."""
    analysis = canary.analysis
    if not canary.auto:
        return Hold("the analysis is off (auto: false)")
    if canary.paused:
        return Hold("paused")
    if verdict.result == "fail":
        counted = f"{progress.failed} of {analysis.threshold} failed checks"
        if progress.failed >= analysis.threshold:
            return RollBack(f"{counted}: {verdict.reason}")
        return Hold(f"{counted}: {verdict.reason}")
    lacking = [check for check in verdict.checks if check.result == "no data"]
    if canary.weight == 0 and all(check.name.startswith(_NEED_REQUESTS) for check in lacking):
        # Without requests there is nothing to measure: the first step is what makes a verdict possible.
        return SetWeight(min(analysis.step_weight, analysis.max_weight), "first requests")
    if verdict.result == "no data":
        return Hold(f"no data: {verdict.reason}")
    if canary.weight >= analysis.max_weight:
        return Promote(f"passed at {canary.weight} %: {verdict.reason}")
    return SetWeight(min(canary.weight + analysis.step_weight, analysis.max_weight), f"passed: {verdict.reason}")
