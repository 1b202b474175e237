"""The batch scheduler: queues that gather tasks into batches, shared threads that run them (TF's SharedBatchScheduler).

Knows nothing of tensors: a task has a size (rows), a queue says how to run a batch of tasks.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from servekit.errors import Code, StatusError
from servekit.server.metrics import Metrics
from servekit.server.options import schedulable_cpus

DEFAULT_MAX_BATCH_SIZE = 1000
DEFAULT_MAX_ENQUEUED_BATCHES = 10


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """`max_execution_batch_size` is `max_batch_size` without splitting. Sizes are rows."""

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    max_execution_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = DEFAULT_MAX_ENQUEUED_BATCHES
    split: bool = False


@dataclass(slots=True)
class Task:
    """`rows` of the caller's `payload`, from `start` on; `finish` is called once, with what the batch made of it."""

    payload: Any
    rows: int
    finish: Callable[[Any, StatusError | None], None]
    start: int = 0
    enqueued: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Batch:
    tasks: list[Task] = field(default_factory=list)
    rows: int = 0
    began: float = 0.0


RunBatch = Callable[[Sequence[Task]], None]
"""Runs a batch and finishes every task of it; must not raise."""


class BatchScheduler:
    """`num_batch_threads` threads for all queues, which take turns. `thread_pool_name` labels a metric."""

    def __init__(self, metrics: Metrics, *, num_batch_threads: int | None = None, thread_pool_name: str = "") -> None:
        if num_batch_threads is not None and num_batch_threads < 1:
            raise StatusError(Code.INVALID_ARGUMENT, f"num_batch_threads must be positive; was {num_batch_threads}")
        self._queuing_latency = metrics.queuing_latency.labels(thread_pool_name)
        self._lock = threading.Lock()
        self._work_ready = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._queues: collections.deque[BatchQueue] = collections.deque()
        for number in range(num_batch_threads or schedulable_cpus()):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def add_queue(self, options: QueueOptions, run: RunBatch) -> BatchQueue:
        queue = BatchQueue(self, options, run)
        with self._lock:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: BatchQueue) -> None:
        """Nobody submits to it any more; what waits in it is still run."""
        with self._lock:
            while queue.waiting:
                self._emptied.wait()
            self._queues.remove(queue)

    def submit(self, queue: BatchQueue, task: Task, split: Callable[[Task, list[int]], list[Task]]) -> None:
        """Raises StatusError: INVALID_ARGUMENT for too many rows, UNAVAILABLE when the queue is full."""
        options = queue.options
        if task.rows > options.max_batch_size:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Task size {task.rows} is larger than maximum input batch size {options.max_batch_size}",
            )
        with self._lock:
            sizes = queue.sizes_of_parts(task.rows)
            if len(queue.batches) + queue.new_batches(sizes) > options.max_enqueued_batches:
                reason = queue.why_full(task.rows)
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"The batch scheduling queue to which this task was submitted is full; {reason}",
                )
            # Somebody must see each batch begin and fill up; what comes in between changes nothing.
            seen = sum([queue.add(part) for part in ([task] if len(sizes) == 1 else split(task, sizes))])
            self._work_ready.notify(seen)

    def withdraw(self, queue: BatchQueue, payload: Any) -> list[Task]:
        """Takes back the tasks of `payload` that still wait; finishing them is the caller's."""
        with self._lock:
            withdrawn = queue.remove(payload)
            if not queue.waiting:
                self._emptied.notify_all()
            return withdrawn

    def _work(self) -> None:
        while True:
            queue, batch = self._next()
            began = time.monotonic()
            queue.run(batch.tasks)
            for task in batch.tasks:  # after the run: nobody waits for it
                self._queuing_latency.observe((began - task.enqueued) * 1e6)

    def _next(self) -> tuple[BatchQueue, _Batch]:
        """Waits for a batch that is full, or old enough; the queue that had its turn goes to the end of the line."""
        with self._lock:
            while True:
                now = time.monotonic()
                patience: float | None = None
                for _ in range(len(self._queues)):
                    queue = self._queues[0]
                    self._queues.rotate(-1)
                    due_in = queue.due_in(now)
                    if due_in is None:
                        continue
                    if due_in <= 0:
                        batch = queue.take()
                        self._emptied.notify_all()
                        self._work_ready.notify()  # somebody must look after what is left
                        return queue, batch
                    patience = due_in if patience is None else min(patience, due_in)
                self._work_ready.wait(patience)


class BatchQueue:
    """Batches of one kind of task; the last one is open, the others are full. Used under the scheduler's lock."""

    def __init__(self, scheduler: BatchScheduler, options: QueueOptions, run: RunBatch) -> None:
        self.options = options
        self.run = run
        self.batches: collections.deque[_Batch] = collections.deque([_Batch()])
        self._scheduler = scheduler

    @property
    def waiting(self) -> bool:
        return len(self.batches) > 1 or self.batches[0].rows > 0

    def submit(self, task: Task, split: Callable[[Task, list[int]], list[Task]]) -> None:
        """See BatchScheduler.submit."""
        self._scheduler.submit(self, task, split)

    def withdraw(self, payload: Any) -> list[Task]:
        """See BatchScheduler.withdraw."""
        return self._scheduler.withdraw(self, payload)

    def close(self) -> None:
        self._scheduler.remove_queue(self)

    def sizes_of_parts(self, rows: int) -> list[int]:
        """How a task is cut: the rest of the open batch first, then whole batches. One part where it is not cut."""
        limit, room = self.options.max_execution_batch_size, self._room()
        if not self.options.split or rows <= room:
            return [rows]
        sizes = [room] if room else []
        rest = rows - room
        sizes += [limit] * (rest // limit)
        return [*sizes, rest % limit] if rest % limit else sizes

    def new_batches(self, sizes: Sequence[int]) -> int:
        room, count = self._room(), 0
        for size in sizes:
            if size > room:
                count, room = count + 1, self.options.max_execution_batch_size
            room -= size
        return count

    def why_full(self, rows: int) -> str:
        """Upstream says more about a queue that splits."""
        enqueued, allowed = len(self.batches), self.options.max_enqueued_batches
        if not self.options.split:
            return f"currently {enqueued} batches enqueued and max_enqueued_batches is {allowed}"
        limit = self.options.max_execution_batch_size
        return (
            f"task size is {rows} but scheduling capacity is only {(allowed - enqueued) * limit + self._room()} "
            f"(num_enqueued_batches={enqueued}, max_enqueued_batches={allowed}, "
            f"open_batch_size={self.batches[-1].rows}, max_execution_batch_size={limit})"
        )

    def add(self, task: Task) -> bool:
        """Whether it is the first one in its batch, or the last."""
        if task.rows > self._room():
            self.batches.append(_Batch())
        batch = self.batches[-1]
        if not batch.tasks:
            batch.began = time.monotonic()
        batch.tasks.append(task)
        batch.rows += task.rows
        return len(batch.tasks) == 1 or batch.rows >= self.options.max_execution_batch_size

    def remove(self, payload: Any) -> list[Task]:
        removed = []
        for batch in list(self.batches):
            mine = [task for task in batch.tasks if task.payload is payload]
            batch.tasks = [task for task in batch.tasks if task.payload is not payload]
            batch.rows -= sum(task.rows for task in mine)
            removed += mine
            if not batch.tasks and batch is not self.batches[-1]:
                self.batches.remove(batch)
        return removed

    def due_in(self, now: float) -> float | None:
        """Seconds until the first batch should run; None when there is none."""
        if not self.waiting:
            return None
        first = self.batches[0]
        if len(self.batches) > 1 or first.rows >= self.options.max_execution_batch_size:
            return 0.0
        return first.began + self.options.batch_timeout_s - now

    def take(self) -> _Batch:
        batch = self.batches.popleft()
        if not self.batches:
            self.batches.append(_Batch())
        return batch

    def _room(self) -> int:
        return self.options.max_execution_batch_size - self.batches[-1].rows
