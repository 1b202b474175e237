"""The counters of both labels as they were read over time, and the windows that can be judged. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def window(self, enough: Callable[[Window], bool]) -> Window | NoData:
        """The shortest until now that is enough, else all there is."""
        if len(self.totals) < 2:
            return NoData("the first look at the counters; the next one has something to compare with")
        at_s, now = self.totals[-1]
        for began_s, then in reversed(self.totals[:-1]):
            stable, canary = (now.get(one, Tally()) - then.get(one, Tally()) for one in (STABLE, CANARY))
            window = Window(stable, canary, at_s - began_s)
            if enough(window):
                break
        return window
