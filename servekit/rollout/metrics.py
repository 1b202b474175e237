"""What the controller tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from servekit.canary.advance import Progress
from servekit.config.serving import Serving
from servekit.rollout.history import Event
from servekit.rollout.plan import CANARY, Change

PHASES = ("none", "manual", "analysing", "paused")
"""Of a canary: there is none; people move its weight; the analysis does; it would if it were not paused."""


class Metrics:
    """Families servekit_rollout_*; nothing of the process itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._labels = Gauge(
            "servekit_rollout_label_version",
            "Version of a label: desired by serving.yaml, actual on the server. NaN: the label does not answer.",
            ["model", "label", "side"],
            registry=self.registry,
        )
        self._steps = Counter(
            "servekit_rollout_steps", "Steps by how they ended.", ["model", "result"], registry=self.registry
        )
        self._under_way = Gauge(
            "servekit_rollout_under_way", "1 while a step of the model is under way.", ["model"], registry=self.registry
        )
        self._errors = Counter(
            "servekit_rollout_errors", "serving.yaml refused, files not written, server gone.", registry=self.registry
        )
        self._weight = Gauge(
            "servekit_canary_weight",
            "Percent of unlabelled requests for label canary: desired by serving.yaml, actual at the gateway. NaN: the "
            "gateway does not show it.",
            ["model", "side"],
            registry=self.registry,
        )
        self._phase = Gauge(
            "servekit_canary_phase",
            "1 for the phase of the model's canary: none, manual, analysing, paused.",
            ["model", "phase"],
            registry=self.registry,
        )
        self._check = Gauge(
            "servekit_canary_check",
            'Last verdict by check, and over all of them (check "all"): 1 pass, 0 fail, NaN no data.',
            ["model", "check"],
            registry=self.registry,
        )
        self._value = Gauge(
            "servekit_canary_check_value", "What the check measured last.", ["model", "check"], registry=self.registry
        )
        self._failed = Gauge(
            "servekit_canary_failed_checks", "Failed checks of the canary so far.", ["model"], registry=self.registry
        )
        self._threshold = Gauge(
            "servekit_canary_failed_checks_threshold", "So many roll it back.", ["model"], registry=self.registry
        )
        self._decisions = Counter(
            "servekit_canary_decisions",
            "What ended canaries or moved their weight by the analysis: weight, promoted, rolled back.",
            ["model", "decision"],
            registry=self.registry,
        )
        self._converged = Gauge(
            "servekit_rollout_converged_timestamp_seconds",
            "When all was last seen as serving.yaml wants it.",
            registry=self.registry,
        )

    def event(self, event: Event) -> None:
        self._under_way.labels(event.model).set(1 if event.result == "started" else 0)
        if event.result != "started":
            self._steps.labels(event.model, event.result).inc()

    def error(self) -> None:
        self._errors.inc()

    def decided(self, model: str, decision: str) -> None:
        self._decisions.labels(model, decision).inc()

    def analysed(self, serving: Serving, progress: Mapping[str, Progress]) -> None:
        for gauge in (self._phase, self._check, self._value, self._failed, self._threshold):
            gauge.clear()
        for name, model in serving.models.items():
            now = phase(serving, name)
            for one in PHASES:
                self._phase.labels(name, one).set(one == now)
            if (known := progress.get(name)) is None or model.canary is None:
                continue
            self._failed.labels(name).set(known.failed)
            self._threshold.labels(name).set(model.canary.analysis.threshold)
            if known.verdict is not None:
                self._check.labels(name, "all").set(_RESULTS[known.verdict.result])
                for check in known.verdict.checks:
                    self._check.labels(name, check.name).set(_RESULTS[check.result])
                    self._value.labels(name, check.name).set(float("nan") if check.value is None else check.value)

    def seen(self, changes: Iterable[Change], *, converged: bool) -> None:
        self._labels.clear()
        self._weight.clear()
        for change in changes:
            if change.split is not None or change.seen.split is not None:
                hidden = change.seen.behind or change.seen.silent
                actual_weight = float("nan") if hidden else change.seen.split.weight if change.seen.split else 0
                self._weight.labels(change.name, "desired").set(change.split.weight if change.split else 0)
                self._weight.labels(change.name, "actual").set(actual_weight)
            for label, version in (change.desired.labels if change.desired else {}).items():
                self._labels.labels(change.name, label, "desired").set(version)
                actual = change.seen.labels.get(label)
                self._labels.labels(change.name, label, "actual").set(float("nan") if actual is None else actual)
        if converged:
            self._converged.set(time.time())

    def serve(self, port: int, address: str) -> Any:
        """At http://ADDRESS:PORT/metrics in a thread of its own; returns the HTTP server. Raises OSError."""
        server, _ = start_http_server(port, addr=address, registry=self.registry)
        return server


_RESULTS = {"pass": 1.0, "fail": 0.0, "no data": float("nan")}


def phase(serving: Serving, name: str) -> str:
    """One of PHASES, by serving.yaml."""
    model = serving.models[name]
    if CANARY not in model.labels:
        return "none"
    if model.canary is None or not model.canary.auto:
        return "manual"
    return "paused" if model.canary.paused else "analysing"
