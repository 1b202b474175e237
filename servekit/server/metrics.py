"""What the server counts: TF Serving's families under their own names, and servekit_ families that know the version.

TF Serving's are in microseconds and have no version label; `:tensorflow:cc:` families come from its loader, others from
TensorFlow (`graph_metrics`). Buckets and labels are those of 2.19.1.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from servekit.errors import Code
from servekit.monitoring.samples import FAMILIES, Sample
from servekit.server import metric_text
from servekit.server.graph_metrics import GraphMetrics
from servekit.server.metric_text import Collected, Family, Told

MAX_MODEL_NAMES = 1000
"""Names of models that nobody serves arrive in requests; beyond this many they are counted as OTHER_MODELS."""

OTHER_MODELS = "<other>"

_Value = TypeVar("_Value")


def exponential(scale: float, growth: float, count: int) -> list[float]:
    """Upper bounds scale, scale * growth, ...: TensorFlow's `Buckets::Exponential`.

    A hair lower, for TensorFlow counts what equals a bound above it and prometheus-client below it.
    """
    return [math.nextafter(scale * growth**power, 0) for power in range(count)]


_LATENCY = exponential(10, 1.8, 33)
_BATCH_SIZE = exponential(1, 2, 14)
_SECONDS = [float(f"{0.001 * 2 ** (power / 2):.3g}") for power in range(30)]  # to 23 s; fine enough to compare versions


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
        self.graphs = GraphMetrics()
        self._families: list[Family] = list(self.graphs.families())
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
            loader + "load_latency_by_stage", ["model_path", "stage"], exponential(10, 1.8, 37)
        )
        self._answers = self._counter("servekit_requests_total", ["model", "version", "api", "entrypoint", "code"])
        self._duration = self._histogram(
            "servekit_request_duration_seconds", ["model", "version", "api", "entrypoint"], _SECONDS
        )
        self._batch_rows = self._histogram(
            "servekit_batch_size", ["model", "version"], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
        )

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
            counter._value.inc(1)
        for histogram, unit in histograms:
            _observe(histogram, seconds * unit)

    def _children_of_request(
        self, model: str, api: str, entrypoint: str, code: Code, version: str
    ) -> tuple[list[Any], list[tuple[Any, float]]]:
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
        _observe(child, seconds * 1e6)

    def record_examples(self, model: str, count: int) -> None:
        """tf.Examples in one multi-inference request; upstream counts no others."""
        self._example_count.labels(model).inc(count)
        self._example_counts.labels(model).observe(count)

    def record_batch(self, model: str, version: int, rows: int) -> None:
        """One batch that ran, without its padding."""
        self._batch_rows.labels(model, str(version)).observe(rows)

    def record_warmup(self, path: str, status: str, seconds: float) -> None:
        """`status` as text: `OK`, or a code and a message."""
        self._warmup_latency.labels(path, status).observe(seconds * 1e6)

    @contextlib.contextmanager
    def loading(self, path: str) -> Iterator[Callable[[str, float], None]]:
        """Counts the attempt to load the version in `path`, and its time.

        Yields what is to be told the seconds of each stage: `restore_graph` and `init_graph`.
        """
        began = time.perf_counter()
        stages: dict[str, float] = {}
        try:
            yield stages.__setitem__
        except BaseException:
            self._load_attempts.labels(path, "fail").inc()
            raise
        self._load_attempts.labels(path, "success").inc()
        self._load_latency.labels(path).inc(int((time.perf_counter() - began) * 1e6))
        for stage, seconds in stages.items():
            self._load_stages.labels(path, stage).observe(int(seconds * 1e6))

    def value(self, name: str) -> int:
        """A metric by TensorFlow's name (`/tensorflow/serving/request_count`); see Family.first_point."""
        self.graphs.count()
        wanted = name.replace("/", ":")
        return sum(family.first_point() for family in self._families if family.name == wanted)

    def page(self, told: Iterable[Sample] = ()) -> str:
        """Prometheus' text; `told` is what holds now and is not counted here: versions, labels, memory."""
        self.graphs.count()
        samples = list(told)
        now = [Told(name, labels, samples) for name, labels in FAMILIES.items()]
        return metric_text.page([*self._families, *now])

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
        self._families.append(Collected(name, "counter", counter))
        return counter

    def _gauge(self, name: str, labels: list[str]) -> Gauge:
        gauge = Gauge(name, name, labels, registry=self._registry)
        self._families.append(Collected(name, "gauge", gauge))
        return gauge

    def _histogram(self, name: str, labels: list[str], buckets: list[float], *, quiet: bool = False) -> Histogram:
        histogram = Histogram(name, name, labels, buckets=buckets, registry=self._registry)
        exact = name.startswith("servekit_")
        self._families.append(Collected(name, "histogram", histogram, quiet, exact))
        return histogram


def _observe(histogram: Any, value: float) -> None:
    """Histogram.observe() looks at one bucket after the other."""
    histogram._sum.inc(value)
    histogram._buckets[bisect.bisect_left(histogram._upper_bounds, value)].inc(1)
