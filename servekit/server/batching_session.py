"""A Servable whose requests run together: rows of several requests in one run of the session (TF Serving's rules)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.server.batching import BatchQueue, BatchScheduler, QueueOptions, Task
from servekit.server.cancellation import current
from servekit.server.metrics import Metrics
from servekit.server.servable import Servable, ServableId
from servekit.tensors import DATA_TYPES

MAX_PADDED_RANK = 6
_UNSIGNED = 2**64

Feeds = Mapping[str, NDArray[Any]]
Arrays = list[NDArray[Any]]


class BatchingServable:
    """Wraps a Servable; one queue for each set of fed and fetched tensors, made when it is first asked for.

    `parameters` is a messages.BatchingParameters. Raises StatusError INVALID_ARGUMENT for values that contradict.
    """

    def __init__(
        self, servable: Servable, parameters: Any, scheduler: BatchScheduler, metrics: Metrics, id: ServableId
    ) -> None:
        self.signature_defs = servable.signature_defs
        self._servable = servable
        self._options = queue_options(parameters)
        self._allowed_sizes = tuple(parameters.allowed_batch_sizes)
        self._pad = parameters.pad_variable_length_inputs
        self._scheduler = scheduler
        self._metrics = metrics
        self._id = id
        self._types = {
            info.name: DATA_TYPES[info.dtype].numpy
            for definition in servable.signature_defs.values()
            for info in definition.inputs.values()
            if info.dtype in DATA_TYPES
        }
        self._queues: dict[tuple[tuple[str, ...], tuple[str, ...]], BatchQueue] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Feeds, fetches: Sequence[str]) -> Arrays:
        rows = _rows(feeds)
        for _ in feeds:
            self._metrics.input_batch_size.observe(rows)
        # Alone: no rows (upstream never answers these), and what the session will refuse for its type, so that nobody
        # else is refused with it.
        if rows == 0 or any(array.dtype != self._types.get(name, array.dtype) for name, array in feeds.items()):
            return self._servable.run(feeds, fetches)
        names = tuple(sorted(set(fetches)))
        answer = _Answer(rows)
        queue = self._queue(tuple(sorted(feeds)), names)
        queue.submit(Task(feeds, rows, answer.finish), answer.split)
        cancellation = current()
        if cancellation is None:
            arrays = answer.wait()
        else:
            cancellation.on_cancel(lambda: _withdraw(queue, feeds))
            try:
                arrays = answer.wait()
            finally:
                cancellation.on_cancel(None)
        by_name = dict(zip(names, arrays, strict=True))
        return [by_name[name] for name in fetches]

    def close(self) -> None:
        for queue in self._queues.values():
            queue.close()
        self._servable.close()

    def _queue(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> BatchQueue:
        with self._lock:
            queue = self._queues.get((feeds, fetches))
            if queue is None:
                queue = self._scheduler.add_queue(self._options, lambda tasks: self._run_batch(fetches, tasks))
                self._queues[feeds, fetches] = queue
            return queue

    def _run_batch(self, fetches: tuple[str, ...], tasks: Sequence[Task]) -> None:
        try:
            answers = self._answers(fetches, tasks)
        except StatusError as error:
            for task in tasks:
                task.finish(None, error)
        except Exception as error:  # noqa: BLE001  a batch thread must live, its callers must hear
            for task in tasks:
                task.finish(None, StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            for task, arrays in zip(tasks, answers, strict=True):
                task.finish(arrays, None)

    def _answers(self, fetches: tuple[str, ...], tasks: Sequence[Task]) -> list[Arrays]:
        rows = sum(task.rows for task in tasks)
        size = next((allowed for allowed in self._allowed_sizes if allowed >= rows), rows)
        self._metrics.padding_size.labels(str(size)).observe(size - rows)
        self._metrics.processed_batch_size.observe(size)
        self._metrics.wrapped_run_count.inc()
        self._metrics.record_batch(self._id.name, self._id.version, rows)
        merged = merge([_part(task) for task in tasks], padding_rows=size - rows, pad_dimensions=self._pad)
        return split(self._servable.run(merged, fetches), [task.rows for task in tasks], size)


def queue_options(parameters: Any) -> QueueOptions:
    """BatchingParameters with TensorFlow's defaults, checked. Raises StatusError INVALID_ARGUMENT.

    Negative sizes are very large ones, as in `GetQueueOptions` of bundle_factory_util.h, which has them without a sign.
    """
    defaults = QueueOptions()
    size = parameters.max_batch_size.value if parameters.HasField("max_batch_size") else defaults.max_batch_size
    splitting = parameters.enable_large_batch_splitting.value
    has_execution_size = splitting and parameters.HasField("max_execution_batch_size")
    execution_size = parameters.max_execution_batch_size.value if has_execution_size else size
    batches = defaults.max_enqueued_batches
    if parameters.HasField("max_enqueued_batches"):
        batches = parameters.max_enqueued_batches.value or (0 if splitting else 1)  # upstream rewrites it too
    timeout_micros = parameters.batch_timeout_micros.value
    allowed = list(parameters.allowed_batch_sizes)
    if allowed and allowed[-1] != size:
        raise _refused(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {allowed[-1]}; "
            f"expected {size}"
        )
    size, execution_size, batches = size % _UNSIGNED, execution_size % _UNSIGNED, batches % _UNSIGNED
    for name, value, least in (
        ("max_batch_size", size, 1),
        ("max_execution_batch_size", execution_size, 1),
        ("max_enqueued_batches", batches, 1),
        ("batch_timeout_micros", timeout_micros, 0),
    ):
        if value < least:
            raise _refused(f"{name} must be {'positive' if least else 'non-negative'}; was {value}")
    if execution_size > size:
        raise _refused(f"max_execution_batch_size {execution_size} must not exceed max_batch_size {size}")
    return QueueOptions(size, execution_size, timeout_micros / 1e6, batches, splitting)


def merge(parts: Sequence[Feeds], *, padding_rows: int, pad_dimensions: bool) -> dict[str, NDArray[Any]]:
    """The tasks' rows under each other, then `padding_rows` copies of the last task's first row.

    With `pad_dimensions`, shorter rows are filled up with their tensor's first element. Raises StatusError
    FAILED_PRECONDITION where rows do not fit together, INVALID_ARGUMENT for a rank that upstream does not pad.
    """
    merged = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if pad_dimensions and max(array.ndim for array in arrays) > MAX_PADDED_RANK:
            raise _refused(f"Only tensors with rank from 1 to {MAX_PADDED_RANK} can be padded.")
        if len({array.shape[1:] for array in arrays}) > 1:
            if not pad_dimensions or len({array.ndim for array in arrays}) > 1:
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. "
                    "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
                    "dimensions starting with the first dim.",
                )
            shape = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
            arrays = [_padded(array, shape) for array in arrays]
        if padding_rows:
            arrays.append(np.repeat(arrays[-1][:1], padding_rows, axis=0))
        merged[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return merged


def split(outputs: Sequence[NDArray[Any]], rows: Sequence[int], size: int) -> list[Arrays]:
    """Each task's rows of each output; the padding is dropped. Raises StatusError FAILED_PRECONDITION."""
    for output in outputs:
        if output.ndim == 0:
            raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(output) != size:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
    answers, start = [], 0
    for count in rows:
        answers.append([output[start : start + count] for output in outputs])
        start += count
    return answers


class _Answer:
    """What a caller waits for: the outputs of its task, or of all parts it was split into, or the first error."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._parts: list[tuple[int, Arrays]] = []
        self._answered = 0
        self._error: StatusError | None = None
        self._lock = threading.Lock()
        # Released when all is answered. An Event is twenty times as much Python, which sixteen callers that wake at
        # once run one after the other, before the next batch.
        self._pending = threading.Lock()
        self._pending.acquire()

    def split(self, task: Task, sizes: Sequence[int]) -> list[Task]:
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [self._task(task, start, size) for start, size in zip(starts, sizes, strict=True)]

    def finish(self, arrays: Arrays | None, error: StatusError | None) -> None:
        self._finish(0, self._rows, arrays, error)

    def wait(self) -> Arrays:
        self._pending.acquire()
        if self._error is not None:
            # A fresh one for each caller: raising the same object in several threads mixes their tracebacks.
            raise StatusError(self._error.code, self._error.message)
        parts = [arrays for _, arrays in sorted(self._parts, key=lambda part: part[0])]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _task(self, task: Task, start: int, size: int) -> Task:
        def finish(arrays: Arrays | None, error: StatusError | None) -> None:
            self._finish(start, size, arrays, error)

        return Task(task.payload, size, finish, start, task.enqueued)

    def _finish(self, start: int, rows: int, arrays: Arrays | None, error: StatusError | None) -> None:
        with self._lock:
            self._answered += rows
            self._error = self._error or error
            if arrays is not None:
                self._parts.append((start, arrays))
            if self._answered == self._rows:
                self._pending.release()


def _withdraw(queue: BatchQueue, feeds: Feeds) -> None:
    for task in queue.withdraw(feeds):
        task.finish(None, StatusError(Code.CANCELLED, "The client no longer waits for the answer."))


def _part(task: Task) -> Feeds:
    feeds: Feeds = task.payload
    return {name: array[task.start : task.start + task.rows] for name, array in feeds.items()}


def _rows(feeds: Feeds) -> int:
    if not feeds:
        raise _refused("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in feeds.values()):
        raise _refused("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise _refused("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _padded(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    if array.shape[1:] == tuple(shape):
        return array
    if not array.size and 0 not in shape:
        raise _refused("Got empty tensor in batch of non-empty tensors.")
    padded = np.full((len(array), *shape), array.flat[0] if array.size else None, array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)
