"""The families that TensorFlow itself counts: of running graphs what we see of it, of all others only their names.

Names and types are those on the page of a 2.19.1. There is no way from Python to the numbers of TensorFlow's own
registry; what a session's caller can count, it counts here.
"""

from __future__ import annotations

import bisect
import collections
import math
import threading
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from servekit.server.metric_text import Empty, Family, histogram_lines
from servekit.server.tensorflow_families import families

_MICROSECONDS = [1000 * 2.0**power for power in range(20)]
_BYTES = [4.0**power for power in range(14)]

_MAX_UNCOUNTED = 256


class GraphMetrics:
    """Runs of sessions, graphs prepared for feeds and fetches, SavedModels read. From any thread."""

    def __init__(self) -> None:
        core = ":tensorflow:core:"
        self._lock = threading.Lock()
        self._uncounted: collections.deque[tuple[int, int, int]] = collections.deque()
        self._runs = _Scalar(core + "graph_runs")
        self._session_runs = _Scalar(core + "direct_session_runs")
        self._microseconds = _Scalar(core + "graph_run_time_usecs")
        self._run_times = _Histogram(core + "graph_run_time_usecs_histogram", _MICROSECONDS)
        self._input_bytes = _Histogram(core + "graph_run_input_tensor_bytes", _BYTES)
        self._output_bytes = _Histogram(core + "graph_run_output_tensor_bytes", _BYTES)
        self._builds = _Scalar(core + "graph_build_calls")
        self._build_microseconds = _Scalar(core + "graph_build_time_usecs")
        self._reads = _Scalar(core + "saved_model:read:count")
        self._reads_by_api = _Scalar(core + "saved_model:read:api")
        self._read_path = _Scalar(core + "saved_model:read:path", "gauge")
        self._session_created = _Scalar(core + "session_created", "gauge")

    def record_run(self, seconds: float, feeds: Iterable[NDArray[Any]], fetched: Iterable[Any]) -> None:
        """One run of a session that went well."""
        self._uncounted.append((int(seconds * 1e6), sum(map(_size, feeds)), sum(map(_size, fetched))))
        if len(self._uncounted) >= _MAX_UNCOUNTED:
            self.count()

    def count(self) -> None:
        """Counts the runs that were recorded: many at once, because one by one each costs a small model's time."""
        with self._lock:
            while self._uncounted:
                microseconds, given, made = self._uncounted.popleft()
                self._session_runs.add()
                self._runs.add()
                self._microseconds.add(microseconds)
                self._run_times.add(microseconds)
                self._input_bytes.add(given)
                self._output_bytes.add(made)

    def record_build(self, seconds: float) -> None:
        """A graph was prepared for a set of feeds and fetches."""
        with self._lock:
            self._builds.add()
            self._build_microseconds.add(int(seconds * 1e6))

    def record_read(self, write_version: int) -> None:
        """A SavedModel was read, of version 2 where it has an object graph, else 1; its session was made."""
        with self._lock:
            self._reads.add(labels=f'write_version="{write_version}"')
            self._reads_by_api.add(labels='api_label="cc_load"')
            for gauge in (self._read_path, self._session_created):
                gauge.values[""] = 0  # upstream's page shows texts and truth values as 0

    def families(self) -> list[Family]:
        counted = {family.name: family for family in vars(self).values() if isinstance(family, (_Scalar, _Histogram))}
        others = [Empty(name, kind) for name, kind in families() if name not in counted]
        return [*counted.values(), *others]


class _Scalar:
    """A counter or a gauge: a value for each text of labels, made when it is counted first."""

    def __init__(self, name: str, kind: str = "counter") -> None:
        self.name = name
        self.kind = kind
        self.values: dict[str, int] = {}

    def add(self, amount: int = 1, labels: str = "") -> None:
        self.values[labels] = self.values.get(labels, 0) + amount

    def lines(self) -> list[str]:
        return [f"{self.name}{{{labels}}} {value}" for labels, value in sorted(self.values.items())]

    def first_point(self) -> int:
        return self.values[min(self.values)] if self.values else 0

    def is_shown(self) -> bool:
        return True


class _Histogram:
    kind = "histogram"

    def __init__(self, name: str, bounds: list[float]) -> None:
        self.name = name
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0

    def add(self, value: int) -> None:
        """What equals a bound counts above it, as in TensorFlow's histograms."""
        self._counts[bisect.bisect_right(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        if not any(self._counts):
            return []
        return histogram_lines(self.name, "", [*self._bounds, math.inf], list(self._counts), f"{self._sum:g}")

    def first_point(self) -> int:
        return 0

    def is_shown(self) -> bool:
        return True


def _size(value: Any) -> int:
    """Bytes of a tensor: an array, or what TensorFlow returns for a scalar (a numpy scalar, bytes)."""
    if isinstance(value, bytes):
        return len(value)
    size: int = sum(map(len, value.ravel().tolist())) if value.dtype.kind == "O" else value.nbytes
    return size
