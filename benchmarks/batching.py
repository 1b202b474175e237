"""How late a batch starts: `python -m benchmarks.batching [--seconds 3] [--json]`.

A batch that does not fill up should start `batch_timeout_micros` after its first request came in. 16 clients send one
row after the other to such a queue, with the runs of a real session, while 4 more keep both processors busy through
another queue of the same scheduler. Told for each timeout: by how many milliseconds batches started later than that,
median and slowest percent. The exit status is 1 when a slowest percent is above the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.load import ROOT, percentile_ms
from servekit.server import session
from servekit.server.batching import BatchQueue, BatchScheduler, QueueOptions, Task
from servekit.server.batching_session import merge, split
from servekit.server.metrics import Metrics
from servekit.server.server import SWITCH_INTERVAL_S

MODEL = ROOT / "tests" / "models" / "half_plus_two" / "2"
TIMEOUTS_MS = (0, 1, 2, 5, 20)
CLIENTS, OTHERS = 16, 4
LIMIT_MS = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each timeout")
    parser.add_argument("--limit", type=float, default=LIMIT_MS, help="ms, of the slowest percent")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    session.import_only_what_is_needed()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    run = runner()
    rows = []
    for timeout_ms in TIMEOUTS_MS:
        late = sorted(lateness_micros(run, timeout_ms / 1e3, options.seconds))
        row = {"timeout_ms": timeout_ms, "p50_ms": percentile_ms(late, 50), "p99_ms": percentile_ms(late, 99)}
        rows.append({**row, "batches": len(late)})
        if not options.json:
            print(
                f"batch_timeout_micros {timeout_ms * 1000:6}: {len(late):6} batches, later by {row['p50_ms']:.2f} ms "
                f"(median), {row['p99_ms']:.2f} ms (slowest percent; limit {options.limit:g})",
                flush=True,
            )
    if options.json:
        print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()[0], "timeouts": rows}))
    return 0 if all(row["p99_ms"] <= options.limit for row in rows) else 1


def runner() -> Callable[[Sequence[Task]], None]:
    """Runs a batch in one run of a session, as the server does."""
    servable = session.load_saved_model(MODEL)
    signature = servable.signature_defs["serving_default"]
    x, y = signature.inputs["x"].name, signature.outputs["y"].name

    def run(tasks: Sequence[Task]) -> None:
        merged = merge([{x: task.payload} for task in tasks], padding_rows=0, pad_dimensions=False)
        rows = [task.rows for task in tasks]
        for task, arrays in zip(tasks, split(servable.run(merged, [y]), rows, sum(rows)), strict=True):
            task.finish(arrays, None)

    return run


def lateness_micros(run: Callable[[Sequence[Task]], None], timeout_s: float, seconds: float) -> list[int]:
    """Of each batch: the time from its first request to its start, less the timeout."""
    late: list[int] = []

    def measured(tasks: Sequence[Task]) -> None:
        late.append(round((time.monotonic() - tasks[0].enqueued - timeout_s) * 1e6))
        run(tasks)

    scheduler = BatchScheduler(Metrics())
    queue = scheduler.add_queue(QueueOptions(batch_timeout_s=timeout_s, max_enqueued_batches=1000), measured)
    other = scheduler.add_queue(QueueOptions(max_enqueued_batches=1000), run)
    ended = threading.Event()
    clients = [threading.Thread(target=ask, args=(queue, ended)) for _ in range(CLIENTS)]
    clients += [threading.Thread(target=ask, args=(other, ended)) for _ in range(OTHERS)]
    for client in clients:
        client.start()
    time.sleep(seconds)
    ended.set()
    for client in clients:
        client.join()
    return late


def ask(queue: BatchQueue, ended: threading.Event) -> None:
    """One client: sends a row, waits for its answer, sends the next."""
    row = np.ones(1, np.float32)
    while not ended.is_set():
        answered = threading.Event()
        queue.submit(Task(row, 1, lambda _arrays, _error, done=answered: done.set()), _never_split)  # type: ignore[misc]
        answered.wait()


def _never_split(_task: Task, _sizes: list[int]) -> list[Any]:
    raise AssertionError("a task of one row is not split")


if __name__ == "__main__":
    sys.exit(main())
