"""The gateway's Prometheus page as numbers by model and label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

REQUESTS = "envoy_servekit_requests_total"
"""Counter: model, label, protocol, method, traffic, code (HTTP status), grpc_status (such as INVALID_ARGUMENT)."""

LATENCY = "envoy_servekit_latency_us"
"""Histogram in microseconds: model, label, protocol, method, traffic."""

INFERENCE = frozenset({"predict", "classify", "regress", "multi_inference"})
"""Values of `method` that run the model; the others are `metadata`, `status` and `other`."""

_Name = TypeVar("_Name", str, float)

CLIENT, COPY = "client", "copy"
"""Values of `traffic`: COPY are requests to stable that the canary got a copy of."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """`requests` by REST status (`200`) or gRPC code (`OK`); "0" and "" are clients that went away unanswered.

    `buckets` is cumulative: how many took at most so many milliseconds (the last bound is infinite).
    """

    requests: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[float, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.requests.values())

    @property
    def succeeded(self) -> float:
        return sum(count for code, count in self.requests.items() if code == "OK" or code.startswith("2"))

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(_added(self.requests, other.requests), _added(self.buckets, other.buckets))

    def __sub__(self, before: Traffic) -> Traffic:
        """What happened since `before`. Counters that went down are those of a gateway that was started again."""
        return Traffic(_since(self.requests, before.requests), _since(self.buckets, before.buckets))


@dataclass(frozen=True, slots=True)
class Counts:
    """Inference requests of one model and label. `copied` were copies of requests that another label answered."""

    rest: Traffic = Traffic()
    grpc: Traffic = Traffic()
    copied: Traffic = Traffic()

    @property
    def clients(self) -> Traffic:
        """Both protocols."""
        return self.rest + self.grpc

    def __sub__(self, before: Counts) -> Counts:
        return Counts(self.rest - before.rest, self.grpc - before.grpc, self.copied - before.copied)


Key = tuple[str, str]


def parse(text: str) -> dict[Key, Counts]:
    """By model and label (`stable`, `canary`), of inference requests. Label "" is the rest: other labels, explicit
    versions, models without a label `stable`, and what the gateway refused. Model "" is one that serving.yaml lacks.
    Raises ValueError for text that is no metrics page."""
    requests: dict[tuple[Key, str], dict[str, float]] = {}
    buckets: dict[tuple[Key, str], dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name not in (REQUESTS, f"{LATENCY}_bucket") or labels.get("method") not in INFERENCE:
                continue
            kind = labels["protocol"] if labels["traffic"] == CLIENT else COPY
            place = (labels["model"], labels["label"]), kind
            if sample.name == REQUESTS:
                code = labels["grpc_status"] if labels["protocol"] == "grpc" else labels["code"]
                codes = requests.setdefault(place, {})
                codes[code] = codes.get(code, 0.0) + sample.value
            else:
                bound = float(labels["le"]) / 1000
                bounds = buckets.setdefault(place, {})
                bounds[bound] = bounds.get(bound, 0.0) + sample.value
    keys = {key for key, _ in (*requests, *buckets)}

    def traffic(key: Key, kind: str) -> Traffic:
        return Traffic(requests.get((key, kind), {}), buckets.get((key, kind), {}))

    return {key: Counts(traffic(key, "rest"), traffic(key, "grpc"), traffic(key, COPY)) for key in sorted(keys)}


def _added(one: Mapping[_Name, float], other: Mapping[_Name, float]) -> dict[_Name, float]:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}


def _since(now: Mapping[_Name, float], before: Mapping[_Name, float]) -> dict[_Name, float]:
    started_again = any(now.get(key, 0.0) < count for key, count in before.items())
    return dict(now) if started_again else {key: count - before.get(key, 0.0) for key, count in now.items()}
