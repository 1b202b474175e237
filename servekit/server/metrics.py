"""What the server counts: TF Serving's families under their own names, and servekit_ families that know the version.

TF Serving's are in microseconds and have no version label; `:tensorflow:cc:` families come from its loader. Buckets and
labels are those of 2.19.1.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from servekit.errors import Code

MAX_MODEL_NAMES = 1000
"""Names of models that nobody serves arrive in requests; beyond this many they are counted as OTHER_MODELS."""

OTHER_MODELS = "<other>"

_Value = TypeVar("_Value")


def exponential(scale: float, growth: float, count: int) -> list[float]:
    """Upper bounds scale, scale * growth, ...: TensorFlow's `Buckets::Exponential`."""
    return [scale * growth**power for power in range(count)]


_LATENCY = exponential(10, 1.8, 33)
_BATCH_SIZE = exponential(1, 2, 14)
_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


@dataclass(frozen=True, slots=True)
class Family:
    """`quiet` families are shown only once they have samples, as upstream registers them late.

    Samples are read from prometheus-client's children directly: its collect() makes an object of every bucket, which
    takes 60 ms for fifty models where this takes 8. Upstream's counters have no `_total`.
    """

    name: str
    kind: str
    metric: Any
    quiet: bool = False

    def lines(self) -> list[str]:
        lines: list[str] = []
        for labels, child in self._children():
            if self.kind == "histogram":
                lines += self._histogram_lines(labels, child)
            else:
                lines.append(f"{self.name}{{{labels}}} {_number(child._value.get())}")
        return lines

    def first_point(self) -> int:
        """What TF Serving calls the value of a metric: that of its first labels, in their order; 0 of a histogram."""
        if self.kind == "histogram":
            return 0
        if not self.metric._labelnames:
            return int(self.metric._value.get())
        points = list(self.metric._metrics.items())
        return int(min(points, key=lambda point: point[0])[1]._value.get()) if points else 0

    def total(self) -> int:
        """Sum of a counter, number of observations of a histogram."""
        if self.kind == "histogram":
            return int(sum(bucket.get() for _, child in self._children() for bucket in child._buckets))
        return int(sum(child._value.get() for _, child in self._children()))

    def _children(self) -> list[tuple[str, Any]]:
        names = self.metric._labelnames
        if not names:
            return [("", self.metric)]
        return [(",".join(map(_pair, names, values)), child) for values, child in list(self.metric._metrics.items())]

    def _histogram_lines(self, labels: str, child: Any) -> list[str]:
        inside = f"{labels}," if labels else ""
        outside = f"{{{labels}}}"
        lines, count = [], 0
        for bound, bucket in zip(child._upper_bounds, child._buckets, strict=True):
            count += int(bucket.get())
            lines.append(f'{self.name}_bucket{{{inside}le="{_bound(bound)}"}} {count}')
        return [*lines, f"{self.name}_sum{outside} {_number(child._sum.get())}", f"{self.name}_count{outside} {count}"]


class _Bounded(dict[Any, _Value]):
    """A cache that starts again when strangers' names have filled it."""

    def __setitem__(self, key: Any, value: _Value) -> None:
        if len(self) >= 10 * MAX_MODEL_NAMES:
            self.clear()
        super().__setitem__(key, value)


class Metrics:
    """All metrics of one server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._families: list[Family] = []
        self._model_names: set[str] = set()
        self._lock = threading.Lock()
        # Finding a child by its labels costs more than counting in it.
        self._request_children: _Bounded[Any] = _Bounded()
        self._runtime_children: _Bounded[Any] = _Bounded()
        serving = ":tensorflow:serving:"
        self.queuing_latency = self._histogram(
            serving + "batching_session:queuing_latency", ["thread_pool_name"], exponential(100, 1.2, 52)
        )
        self.wrapped_run_count = self._counter(serving + "batching_session:wrapped_run_count")
        self.input_batch_size = self._histogram(
            serving + "batching_session:input_batch_size", [], _BATCH_SIZE, quiet=True
        )
        self.processed_batch_size = self._histogram(
            serving + "batching_session:processed_batch_size", [], _BATCH_SIZE, quiet=True
        )
        self.padding_size = self._histogram(
            serving + "batching_session:padding_size", ["execution_batch_size"], _BATCH_SIZE, quiet=True
        )
        self._gauge(serving + "mlmd_map", ["model_name", "version"])
        self._warmup_latency = self._histogram(serving + "model_warmup_latency", ["model_path", "status"], _LATENCY)
        self._request_count = self._counter(serving + "request_count", ["model_name", "status"])
        self._example_count = self._counter(serving + "request_example_count_total", ["model"])
        self._example_counts = self._histogram(serving + "request_example_counts", ["model"], exponential(1, 2, 15))
        self._request_latency = self._histogram(
            serving + "request_latency", ["model_name", "API", "entrypoint"], _LATENCY
        )
        self._counter(serving + "request_log_count", ["model_name"])
        self._runtime_latency = self._histogram(serving + "runtime_latency", ["model_name", "API", "runtime"], _LATENCY)
        loader = ":tensorflow:cc:saved_model:"
        self._load_attempts = self._counter(loader + "load_attempt_count", ["model_path", "status"])
        self._load_latency = self._counter(loader + "load_latency", ["model_path"])
        self._load_stages = self._histogram(
            loader + "load_latency_by_stage", ["model_path", "stage"], exponential(10, 1.5, 37)
        )
        self._answers = self._counter("servekit_requests_total", ["model", "version", "api", "entrypoint", "code"])
        self._duration = self._histogram(
            "servekit_request_duration_seconds", ["model", "version", "api", "entrypoint"], _SECONDS
        )
        self._batch_rows = self._histogram(
            "servekit_batch_size", ["model", "version"], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
        )
        self._available = self._gauge("servekit_version_available", ["model", "version"])

    def record_request(
        self, model: str, api: str, entrypoint: str, code: Code, seconds: float, version: int | None = None
    ) -> None:
        """One answered request. `api` is `predict` by REST, `Predict` by gRPC, empty for REST's GETs.

        `version` is None when no version was found. Latency is of successful requests only, as upstream.
        """
        key = (model, api, entrypoint, code, version)
        children = self._request_children.get(key)
        if children is None:
            shown = "" if version is None else str(version)
            children = self._children_of_request(self._known(model), api, entrypoint, code, shown)
            self._request_children[key] = children
        counters, histograms = children
        for counter in counters:
            counter.inc()
        for histogram, unit in histograms:
            histogram.observe(seconds * unit)

    def _children_of_request(
        self, model: str, api: str, entrypoint: str, code: Code, version: str
    ) -> tuple[list[Counter], list[tuple[Histogram, float]]]:
        """What a request of this kind counts in; each histogram with the number of its units in a second."""
        counters = [self._request_count.labels(model, code.name)]
        histograms = []
        if code is Code.OK:
            histograms.append((self._request_latency.labels(model, api, entrypoint), 1e6))
        if api:
            counters.append(self._answers.labels(model, version, api.lower(), entrypoint, code.name))
            if code is Code.OK:
                histograms.append((self._duration.labels(model, version, api.lower(), entrypoint), 1.0))
        return counters, histograms

    def record_runtime(self, model: str, api: str, seconds: float) -> None:
        """Time inside the session for one request; `api` as in gRPC."""
        child = self._runtime_children.get((model, api))
        if child is None:
            child = self._runtime_children[model, api] = self._runtime_latency.labels(model, api, "TF1")
        child.observe(seconds * 1e6)

    def record_examples(self, model: str, count: int) -> None:
        """tf.Examples in one multi-inference request; upstream counts no others."""
        self._example_count.labels(model).inc(count)
        self._example_counts.labels(model).observe(count)

    def record_batch(self, model: str, version: int, rows: int) -> None:
        """One batch that ran, without its padding."""
        self._batch_rows.labels(model, str(version)).observe(rows)

    def record_warmup(self, path: str, code: Code, seconds: float) -> None:
        self._warmup_latency.labels(path, code.name).observe(seconds * 1e6)

    @contextlib.contextmanager
    def loading(self, path: str) -> Iterator[None]:
        """Counts the attempt to load the version in `path`, and its time."""
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._load_attempts.labels(path, "fail").inc()
            raise
        microseconds = (time.perf_counter() - began) * 1e6
        self._load_attempts.labels(path, "success").inc()
        self._load_latency.labels(path).inc(int(microseconds))
        self._load_stages.labels(path, "restore_graph").observe(microseconds)

    def set_available(self, versions: Iterator[tuple[str, int]]) -> None:
        """The versions that answer now; called before a page is printed."""
        self._available.clear()
        for model, version in versions:
            self._available.labels(model, str(version)).set(1)

    def value(self, name: str) -> int:
        """A metric by TensorFlow's name (`/tensorflow/serving/request_count`); see Family.first_point."""
        wanted = name.replace("/", ":")
        return sum(family.first_point() for family in self._families if family.name == wanted)

    def page(self) -> str:
        """Prometheus' text format in upstream's manner: sorted families, TYPE lines only."""
        lines: list[str] = []
        for family in sorted(self._families, key=lambda family: family.name):
            if family.quiet and not family.total():
                continue
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += family.lines()
        return "\n".join(lines) + "\n"

    def _known(self, model: str) -> str:
        if model in self._model_names:
            return model
        with self._lock:
            if len(self._model_names) >= MAX_MODEL_NAMES:
                return OTHER_MODELS
            self._model_names.add(model)
        return model

    def _counter(self, name: str, labels: list[str] | None = None) -> Counter:
        counter = Counter(name, name, labels or [], registry=self._registry)
        self._families.append(Family(name, "counter", counter))
        return counter

    def _gauge(self, name: str, labels: list[str]) -> Gauge:
        gauge = Gauge(name, name, labels, registry=self._registry)
        self._families.append(Family(name, "gauge", gauge))
        return gauge

    def _histogram(self, name: str, labels: list[str], buckets: list[float], *, quiet: bool = False) -> Histogram:
        histogram = Histogram(name, name, labels, buckets=buckets, registry=self._registry)
        self._families.append(Family(name, "histogram", histogram, quiet))
        return histogram


@functools.cache
def _bound(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:g}"


def _pair(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
