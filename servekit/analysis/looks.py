"""The counters of both labels as they were read over time, and the windows that can be judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servekit.analysis.tally import Tally, since
from servekit.analysis.verdict import NoData, Window

STABLE, CANARY = "stable", "canary"
KEPT = 1000
"""Readings."""


@dataclass(frozen=True, slots=True)
class Looks:
    """`totals` grow for ever, also where a gateway that was started again counts from 0."""

    last: Mapping[str, Tally] = field(default_factory=dict)
    totals: tuple[tuple[float, Mapping[str, Tally]], ...] = ()
    """Seconds of a monotonic clock, and what each label had answered by then."""

    def seen(self, at_s: float, now: Mapping[str, Tally]) -> Looks:
        """`now` are counters by label; one that is missing has not changed."""
        before = self.totals[-1][1] if self.totals else {}
        if not self.totals:
            return Looks(dict(now), ((at_s, dict.fromkeys(now, Tally())),))
        came = {label: since(self.last.get(label, Tally()), tally) for label, tally in now.items()}
        total = {**before, **{label: before.get(label, Tally()) + tally for label, tally in came.items()}}
        return Looks({**self.last, **now}, (*self.totals, (at_s, total))[-KEPT:])

    @property
    def at_s(self) -> float:
        """Of the last reading; before any, of long ago."""
        return self.totals[-1][0] if self.totals else 0.0

    def window(self, since_s: float, least_stable: int) -> Window | NoData:
        """What came since the reading at `since_s`, or since the first. Where stable got fewer than `least_stable` in
        that time (the canary has everything), all that is known of stable stands beside it.
        """
        if len(self.totals) < 2:
            return NoData("the first look at the counters; the next one has something to compare with")
        at_s, now = self.totals[-1]
        began_s, then = next((one for one in self.totals if one[0] >= since_s), self.totals[-1])
        stable, canary = (now.get(one, Tally()) - then.get(one, Tally()) for one in (STABLE, CANARY))
        if stable.requests < least_stable:
            stable = now.get(STABLE, Tally()) - self.totals[0][1].get(STABLE, Tally())
        return Window(stable, canary, at_s - began_s)
