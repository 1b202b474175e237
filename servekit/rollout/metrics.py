"""What the controller tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from servekit.rollout.history import Event
from servekit.rollout.plan import Change


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

    def seen(self, changes: Iterable[Change], *, converged: bool) -> None:
        self._labels.clear()
        for change in changes:
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
