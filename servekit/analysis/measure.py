"""One analyst for one canary: takes all readings that serving.yaml asks for, and has them judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from servekit.analysis import agreement, gates, samples
from servekit.analysis.counting import NoCounters, from_gateway, from_prometheus
from servekit.analysis.faults import LEAST, Suspicion
from servekit.analysis.looks import CANARY, STABLE, Looks
from servekit.analysis.promql import Prometheus, filled
from servekit.analysis.tally import Tally
from servekit.analysis.verdict import Agreed, NoData, Readings, Verdict, Window, judge
from servekit.client import Client
from servekit.config.canary import Analysis, Canary, seconds
from servekit.config.serving import Serving
from servekit.paths import Bundle

LONGEST_SAMPLING_S = 20.0
"""Comparing answers takes no longer than that, and no longer than an interval: the controller waits for it."""
SHORTEST_SAMPLING_S = 5.0
LONGEST_COUNT_S = 10.0


@dataclass(frozen=True, slots=True)
class Sources:
    """`server_url`: the model server's gRPC, behind the gateway. Counts come from the gateway's page where its URL is
    known, else from Prometheus, which the user's own queries need in any case.
    """

    server_url: str
    gateway_metrics_url: str | None = None
    prometheus_url: str | None = None


Progress = Callable[[str], None]


class Analyst:
    """Keeps the counters that it saw, so that each check judges what happened since the one before.

    Not for several threads. `serving` may be replaced by a newer one; when a label means another version there, the
    counting begins anew. Nothing is asked before `begin` or `check`.
    """

    def __init__(
        self, bundle: Bundle, model: str, serving: Serving, sources: Sources, progress: Progress = lambda _: None
    ) -> None:
        self.serving = serving
        self._bundle = bundle
        self._model = model
        self._sources = sources
        self._progress = progress
        self._client: Client | None = None
        self._prometheus = Prometheus(sources.prometheus_url) if sources.prometheus_url else None
        self._versions: tuple[int | None, int | None] = (None, None)
        self._looks = Looks()
        self._judged: dict[str, float] = {}
        self._next_sample = 0
        self._suspicion: Suspicion | None = None

    def begin(self) -> None:
        """Reads the counters, so that the next check has something to compare with; the first check does it too."""
        self._look()

    @property
    def default_count_s(self) -> float:
        """For a single check: an interval, but nobody waits for minutes; 0 where nothing is counted."""
        analysis = self._canary.analysis
        counted = analysis.success_rate != "off" or analysis.p99_ratio != "off"
        return min(seconds(analysis.interval), LONGEST_COUNT_S) if counted else 0.0

    def count(self, count_s: float) -> None:
        """`begin`, and a while in which requests come."""
        self.begin()
        time.sleep(count_s)

    def check(self, *, phase: str = "analysis") -> Verdict:
        """Takes up to LONGEST_SAMPLING_S, and as long as the slowest gate and query. What cannot be had is no data;
        raises nothing for it. `phase` is told to the gates.
        """
        canary = self._canary
        analysis = canary.analysis
        problem = self._look()
        readings = Readings(
            traffic=problem or self._window("success_rate", analysis),
            latency=problem or self._window("p99_ratio", analysis),
            agreement=self._agreement(analysis),
            queries={name: self._query(query.query, analysis) for name, query in analysis.queries.items()},
            at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        if analysis.gates:
            self._progress(f"gates: {', '.join(analysis.gates)}")
            # They are told what the other checks say.
            said = judge(analysis.model_copy(update={"gates": {}}), readings)
            answers = gates.ask_all(analysis.gates, self._question(canary, phase, said), self._bundle.root)
            readings = replace(readings, gates=answers)
        verdict = judge(analysis, readings)
        # Each request counts in one verdict: one bad moment is one failed check. Without data it goes on counting.
        self._judged |= {check.name: self._looks.at_s for check in verdict.checks if check.result != "no data"}
        return verdict

    def close(self) -> None:
        if self._client:
            self._client.close()

    @property
    def _canary(self) -> Canary:
        return self.serving.models[self._model].canary or Canary()

    def _window(self, check: str, analysis: Analysis) -> Window | NoData:
        return self._looks.window(self._judged.get(check, 0.0), analysis.min_requests)

    def _look(self) -> NoData | None:
        """What is in the way of counting."""
        labels = self.serving.models[self._model].labels
        versions = labels.get(STABLE), labels.get(CANARY)
        if versions != self._versions:
            self._versions, self._looks, self._judged = versions, Looks(), {}
            self._next_sample, self._suspicion = 0, None
        try:
            self._looks = self._looks.seen(time.monotonic(), self._counters())
        except NoCounters as error:
            return NoData(error.message)
        return None

    def _counters(self) -> dict[str, Tally]:
        copies = self._canary.mirror > 0
        if self._sources.gateway_metrics_url:
            return from_gateway(self._sources.gateway_metrics_url, self._model, copies=copies)
        if self._prometheus:
            return from_prometheus(self._prometheus, self._model, copies=copies)
        raise NoCounters("neither a gateway nor a Prometheus to read the counters from")

    def _agreement(self, analysis: Analysis) -> Agreed | NoData:
        wanted = analysis.agreement
        if isinstance(wanted.minimum, str):
            return NoData("off")
        served = self.serving.models[self._model]
        base = self._bundle.root / served.folder(self._model, self._bundle.models)
        stable, canary = self._versions
        given = None if wanted.samples is None else self._bundle.root / wanted.samples
        folders = [base / str(version) for version in (canary, stable) if version is not None]
        try:
            found = samples.find(given, folders, self._bundle.samples)
        except samples.SampleError as error:
            return NoData(error.message)
        chosen = agreement.in_turn(found, wanted.count, self._next_sample)
        self._next_sample = (self._next_sample + len(chosen)) % len(found)
        self._client = self._client or Client(self._sources.server_url)
        if wanted.faults and self._suspicion is None:
            self._suspicion = Suspicion(max(LEAST, wanted.count))
        return agreement.ask(
            self._client,
            self._model,
            chosen,
            wanted,
            limit_s=min(LONGEST_SAMPLING_S, max(SHORTEST_SAMPLING_S, seconds(analysis.interval))),
            suspicion=self._suspicion if wanted.faults else None,
            versions=self._versions,
            progress=lambda done, all_: self._progress(f"samples: {done} of {all_}"),
        )

    def _query(self, query: str, analysis: Analysis) -> float | NoData:
        if self._prometheus is None:
            return NoData("needs a Prometheus, and its address is not known")
        stable, canary = self._versions
        values = {"model": self._model, "interval": analysis.interval, "stable": stable, "canary": canary}
        return self._prometheus.number(filled(query, values))

    def _question(self, canary: Canary, phase: str, said: Verdict) -> dict[str, Any]:
        return {
            "model": self._model,
            "stable": self._versions[0],
            "canary": self._versions[1],
            "weight": canary.weight,
            "mirror": canary.mirror,
            "phase": phase,
            "interval": canary.analysis.interval,
            **said.document(),
        }
