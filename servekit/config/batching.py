"""Section `batching`: TF Serving's BatchingParameters, without the combinations that crash it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from servekit.config.section import INT64_MAX, Auto, AutoCores, Either, Finding, Section, is_int

MAX_ROWS = 2**31 - 1
# An EfficientNet on a CPU takes as long a row in batches of 2 as in batches of 32: larger ones only add waiting, and
# padding 5 rows to 8 costs 8 rows' time. oneDNN keeps about 1,000 prepared kernels: enough for 16 sizes of 50 layers.
AUTO_EXECUTION_SIZE = 16


def _sizes(value: Any) -> bool:
    return value == "auto" or (isinstance(value, tuple) and all(is_int(size, 1, MAX_ROWS) for size in value))


BatchSizes = Annotated[
    tuple[int, ...] | Auto,
    Either(
        "auto or a list of whole numbers from 1",
        _sizes,
        {"anyOf": [{"const": "auto"}, {"type": "array", "items": {"type": "integer", "minimum": 1}}]},
    ),
]


BatchSize = Annotated[
    int | Auto,
    Either(
        "auto or a whole number from 1",
        lambda value: value == "auto" or is_int(value, 1, MAX_ROWS),
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]},
    ),
]


class Batching(Section):
    """Rows of requests that wait at the same time are run together."""

    enabled: bool = True
    """Off: every request runs alone (`--enable_batching` is not given)."""

    max_batch_size: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 256
    """Rows that one request may have; a larger one is refused."""

    max_execution_batch_size: BatchSize = "auto"
    """Rows that run at once, if large requests are split. auto: 16, or max_batch_size where that is less."""

    enable_large_batch_splitting: bool = True
    """Cut requests that do not fit into the batch that is being filled."""

    batch_timeout_micros: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    """How long a batch that is not full waits for more rows when a thread is free. 0 adds no waiting and still groups
    whatever queues up while all threads are busy: right for a CPU. On a GPU try 1000 to 10000."""

    max_enqueued_batches: Annotated[int, Field(ge=1, le=INT64_MAX)] = 100
    """Full queue: requests beyond it are answered UNAVAILABLE (HTTP 503)."""

    num_batch_threads: AutoCores = "auto"
    """Batches that run at once. auto: `server.cpus`, or as many as the server finds cores."""

    allowed_batch_sizes: BatchSizes = ()
    """Batches are padded up to one of these sizes, the last being max_batch_size. []: no padding, right for a CPU,
    where every row costs its time. auto: powers of two, for a GPU or XLA, where every new size costs time."""

    pad_variable_length_inputs: bool = False
    """Pad tensors of different shapes with their first element to run them together."""

    def execution_size(self) -> int:
        """Rows in the largest batch that runs."""
        if not self.enable_large_batch_splitting:
            return self.max_batch_size
        if self.max_execution_batch_size == "auto":
            return min(AUTO_EXECUTION_SIZE, self.max_batch_size)
        return self.max_execution_batch_size

    def batch_sizes(self) -> tuple[int, ...]:
        """allowed_batch_sizes in numbers: powers of two up to the largest batch that runs, then max_batch_size."""
        if self.allowed_batch_sizes != "auto":
            return self.allowed_batch_sizes
        largest = self.execution_size()
        powers = {2**exponent for exponent in range(largest.bit_length())}
        return tuple(sorted(powers | {largest, self.max_batch_size}))

    def findings(self) -> Iterator[Finding]:
        execution = self.max_execution_batch_size
        if execution != "auto" and not self.enable_large_batch_splitting:
            yield Finding(
                ("max_execution_batch_size",),
                "has no effect without enable_large_batch_splitting",
                "take it out, or set enable_large_batch_splitting: true",
            )
        elif execution != "auto" and execution > self.max_batch_size:
            yield Finding(
                ("max_execution_batch_size",),
                f"is {execution}, more than max_batch_size {self.max_batch_size}: TF Serving crashes on that",
                f"set max_batch_size to {execution} or more",
            )
        if self.allowed_batch_sizes not in ("auto", ()):
            yield from self._size_findings(self.batch_sizes())

    def _size_findings(self, sizes: tuple[int, ...]) -> Iterator[Finding]:
        for index in range(1, len(sizes)):
            if sizes[index] <= sizes[index - 1]:
                message = f"{sizes[index]} comes after {sizes[index - 1]}: the sizes have to grow"
                yield Finding(("allowed_batch_sizes", index), message)
                return
        if sizes[-1] != self.max_batch_size:
            yield Finding(
                ("allowed_batch_sizes",),
                f"ends in {sizes[-1]}, but the last size has to be max_batch_size, {self.max_batch_size}",
                f"add {self.max_batch_size}, or write auto",
            )
