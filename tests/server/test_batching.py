"""Requests that run together: sizes, padding, splitting, full queues, errors; on a Servable that doubles its rows."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.batching import BatchScheduler
from servekit.server.batching_session import BatchingServable, merge, queue_options, split
from servekit.server.cancellation import Cancellation, answering
from servekit.server.metrics import Metrics
from servekit.server.servable import ServableId

FOR_LONG = "batch_timeout_micros { value: 60000000 }"
"""A batch of these runs when it is full."""


class Doubling:
    """Answers twice its rows, once `gate` is open; refuses batches with a negative number; remembers batch sizes."""

    signature_defs: Mapping[str, Any] = {}

    def __init__(self, *, shut: bool = False) -> None:
        self.gate = threading.Event()
        if not shut:
            self.gate.set()
        self.sizes: list[int] = []
        self.closed = False

    def run(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        (rows,) = feeds.values()
        self.sizes.append(len(rows))
        assert self.gate.wait(30)
        if rows.size and rows.min() < 0:
            raise StatusError(Code.INVALID_ARGUMENT, f"negative: {rows.min()}")
        return [rows * 2 for _ in fetches]

    def close(self) -> None:
        self.closed = True


def batching(servable: Doubling, parameters: str, threads: int = 1) -> tuple[BatchingServable, Metrics]:
    metrics = Metrics()
    scheduler = BatchScheduler(metrics, num_batch_threads=threads)
    message = text_format.Parse(parameters, messages.BatchingParameters())
    return BatchingServable(servable, message, scheduler, metrics, ServableId("m", 1)), metrics


def ask(batched: BatchingServable, *rows: float) -> list[float]:
    (answer,) = batched.run({"x:0": np.array(rows, np.float32)}, ["y:0"])
    values: list[float] = answer.tolist()
    return values


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows_that_wait(batched: BatchingServable) -> int:
    """In all queues, not those that run."""
    return sum(batch.rows for queue in list(batched._queues.values()) for batch in list(queue.batches))


def one_runs_and_one_waits(
    pool: ThreadPoolExecutor, shut: Doubling, batched: BatchingServable
) -> tuple[Future[list[float]], Future[list[float]]]:
    """Of one row each: 1 is in the batch that runs, 2 in its queue."""
    runs = pool.submit(ask, batched, 1)
    until(lambda: shut.sizes == [1])
    waits = pool.submit(ask, batched, 2)
    until(lambda: rows_that_wait(batched) == 1)
    return runs, waits


def test_requests_that_wait_run_together_and_get_their_own_rows() -> None:
    servable = Doubling()
    batched, metrics = batching(servable, f"max_batch_size {{ value: 8 }} {FOR_LONG}")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: ask(batched, n, n + 0.5), range(4)))
    assert answers == [[2.0 * n, 2.0 * n + 1] for n in range(4)]
    assert servable.sizes == [8]
    assert metrics.value("/tensorflow/serving/batching_session/wrapped_run_count") == 1


def test_a_queue_that_splits_says_how_much_it_could_take() -> None:
    batched, _ = batching(
        Doubling(),
        "max_batch_size { value: 16 } max_execution_batch_size { value: 4 } max_enqueued_batches { value: 2 } "
        "enable_large_batch_splitting { value: true }",
    )
    assert ask(batched, *range(8)) == [2.0 * n for n in range(8)]
    with pytest.raises(StatusError) as full:
        ask(batched, *range(9))
    assert full.value.code is Code.UNAVAILABLE
    assert full.value.message.endswith(
        "is full; task size is 9 but scheduling capacity is only 8 (num_enqueued_batches=1, max_enqueued_batches=2, "
        "open_batch_size=0, max_execution_batch_size=4)"
    )


@pytest.mark.parametrize("timeout_micros", [0, 1000, 5000, 20_000])
def test_a_lonely_request_waits_for_the_timeout_and_no_longer(timeout_micros: int) -> None:
    batched, _ = batching(
        Doubling(), f"max_batch_size {{ value: 8 }} batch_timeout_micros {{ value: {timeout_micros} }}"
    )
    took = []
    for _ in range(25):
        began = time.monotonic()
        assert ask(batched, 1) == [2]
        took.append(time.monotonic() - began - timeout_micros / 1e6)
    assert min(took) > 0
    assert statistics.quantiles(took, n=4)[0] < 0.005  # with 0.3 ms for the run; a busy machine slows some of them


def test_batches_are_padded_to_an_allowed_size() -> None:
    servable = Doubling()
    batched, _ = batching(servable, "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8")
    assert ask(batched, 1, 2, 3) == [2, 4, 6]
    assert servable.sizes == [4]


def test_large_requests_are_split_and_put_together_again() -> None:
    servable = Doubling()
    batched, _ = batching(
        servable,
        "max_batch_size { value: 16 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 4 }",
        threads=2,
    )
    assert ask(batched, *range(10)) == [2.0 * n for n in range(10)]
    assert sorted(servable.sizes) == [2, 4, 4]


def test_a_request_above_the_limit_is_refused() -> None:
    batched, _ = batching(Doubling(), "max_batch_size { value: 4 }")
    with pytest.raises(StatusError, match="Task size 5 is larger than maximum input batch size 4") as caught:
        ask(batched, 1, 2, 3, 4, 5)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_full_queue_is_unavailable() -> None:
    servable = Doubling(shut=True)
    batched, _ = batching(servable, "max_batch_size { value: 1 } max_enqueued_batches { value: 1 }")
    with ThreadPoolExecutor(2) as pool:
        runs, waits = one_runs_and_one_waits(pool, servable, batched)
        with pytest.raises(StatusError) as refused:
            ask(batched, 3)
        servable.gate.set()
        assert (runs.result(), waits.result()) == ([2], [4])
    assert str(refused.value) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; "
        "currently 1 batches enqueued and max_enqueued_batches is 1"
    )


def test_an_error_reaches_everybody_in_its_batch_and_nobody_else() -> None:
    batched, _ = batching(Doubling(), f"max_batch_size {{ value: 2 }} {FOR_LONG}")
    with ThreadPoolExecutor(2) as pool:
        errors = [future.exception() for future in [pool.submit(ask, batched, n) for n in (1, -1)]]
    assert [str(error) for error in errors] == ["INVALID_ARGUMENT: negative: -1.0"] * 2
    assert ask(batched, 3, 4) == [6, 8]


def test_no_rows_are_answered_at_once() -> None:
    batched, _ = batching(Doubling(), "batch_timeout_micros { value: 60000000 }")
    assert ask(batched) == []


def test_closing_waits_for_what_is_queued() -> None:
    servable = Doubling(shut=True)
    batched, _ = batching(servable, "max_batch_size { value: 1 }")
    with ThreadPoolExecutor(3) as pool:
        runs, waits = one_runs_and_one_waits(pool, servable, batched)
        closing = pool.submit(batched.close)
        time.sleep(0.05)
        assert not closing.done()
        assert not servable.closed
        servable.gate.set()
        assert (runs.result(), waits.result()) == ([2], [4])
        closing.result(20)
    assert servable.closed


def test_a_queue_that_waits_does_not_hold_up_another() -> None:
    batched, _ = batching(Doubling(), "max_batch_size { value: 2 } batch_timeout_micros { value: 60000000 }")
    nobody_waits = Cancellation()

    def wait() -> None:
        with answering(nobody_waits):
            batched.run({"other:0": np.ones(1, np.float32)}, ["y:0"])

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        until(lambda: rows_that_wait(batched) == 1)
        assert ask(batched, 1, 2) == [2, 4]
        assert not waiting.done()
        nobody_waits.cancel()
        assert isinstance(waiting.exception(20), StatusError)


def test_requests_that_come_in_between_change_nothing_about_when_a_batch_starts() -> None:
    batched, _ = batching(Doubling(), "max_batch_size { value: 1000 } batch_timeout_micros { value: 100000 }")
    with ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        asked = []
        for number in range(20):
            asked.append(pool.submit(ask, batched, number))
            time.sleep(0.002)
        assert [one.result() for one in asked] == [[2.0 * number] for number in range(20)]
        assert time.monotonic() - began >= 0.1


def test_shorter_rows_are_filled_with_their_first_element() -> None:
    parts = [{"x": np.array([[1, 2, 3]])}, {"x": np.array([[4]])}]
    assert merge(parts, padding_rows=1, pad_dimensions=True)["x"].tolist() == [[1, 2, 3], [4, 4, 4], [4, 4, 4]]
    with pytest.raises(StatusError, match="padding is turned off") as caught:
        merge(parts, padding_rows=0, pad_dimensions=False)
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_an_empty_row_cannot_be_filled_up() -> None:
    """`PadTensor` of batching_util.cc: there is no first element to fill it with."""
    parts = [{"x": np.zeros((1, 3))}, {"x": np.zeros((1, 0))}]
    with pytest.raises(StatusError, match="Got empty tensor in batch of non-empty tensors") as caught:
        merge(parts, padding_rows=0, pad_dimensions=True)
    assert caught.value.code is Code.INVALID_ARGUMENT
    empty = [{"x": np.zeros((1, 3, 0))}, {"x": np.zeros((1, 2, 0))}]
    assert merge(empty, padding_rows=0, pad_dimensions=True)["x"].shape == (2, 3, 0)


def test_outputs_must_have_a_row_for_each_row() -> None:
    with pytest.raises(StatusError, match="Batched output tensor has 0 dimensions"):
        split([np.array(1)], [1], 1)
    with pytest.raises(StatusError, match="does not equal the sum of the 0th dimension sizes"):
        split([np.zeros(3)], [1, 1], 2)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        (
            "max_enqueued_batches { value: 0 } enable_large_batch_splitting { value: true }",
            "max_enqueued_batches must be positive; was 0",
        ),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
    ],
)
def test_contradicting_parameters_are_refused(parameters: str, text: str) -> None:
    with pytest.raises(StatusError, match=text):
        queue_options(text_format.Parse(parameters, messages.BatchingParameters()))


def test_what_upstream_lets_pass() -> None:
    parameters = "max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8] max_enqueued_batches { value: 0 }"
    assert queue_options(text_format.Parse(parameters, messages.BatchingParameters())).max_enqueued_batches == 1
    parameters = "max_batch_size { value: -4 } max_enqueued_batches { value: -1 }"
    options = queue_options(text_format.Parse(parameters, messages.BatchingParameters()))
    assert (options.max_batch_size, options.max_enqueued_batches) == (2**64 - 4, 2**64 - 1)
    with pytest.raises(StatusError, match="num_batch_threads must be positive; was 0"):
        BatchScheduler(Metrics(), num_batch_threads=0)


def test_what_nobody_waits_for_leaves_its_batch() -> None:
    servable = Doubling()
    batched, _ = batching(servable, f"max_batch_size {{ value: 4 }} {FOR_LONG}")
    gone = Cancellation()

    def ask_and_leave() -> None:
        with answering(gone):
            ask(batched, 7, 8)

    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(ask_and_leave)
        until(lambda: rows_that_wait(batched) == 2)
        stayed = pool.submit(ask, batched, 1)
        until(lambda: rows_that_wait(batched) == 3)
        gone.cancel()
        with pytest.raises(StatusError, match="no longer waits"):
            left.result(20)
        assert servable.sizes == []
        assert ask(batched, 4, 5, 6) == [8, 10, 12]  # there is room for them now, and the batch is full
        assert stayed.result() == [2]
    assert servable.sizes == [4]


def test_what_nobody_waits_for_leaves_full_batches_too() -> None:
    servable = Doubling(shut=True)
    batched, _ = batching(servable, "max_batch_size { value: 2 }")
    gone = Cancellation()

    def ask_and_leave() -> None:
        with answering(gone):
            ask(batched, 7, 8)

    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(ask, batched, 1, 2)
        until(lambda: servable.sizes == [2])
        left = pool.submit(ask_and_leave)
        until(lambda: rows_that_wait(batched) == 2)
        stayed = pool.submit(ask, batched, 3)
        until(lambda: rows_that_wait(batched) == 3)
        gone.cancel()
        with pytest.raises(StatusError, match="no longer waits"):
            left.result(20)
        servable.gate.set()
        assert (running.result(), stayed.result()) == ([2, 4], [6])
    assert servable.sizes == [2, 1]


def test_padding_knows_ranks_up_to_six() -> None:
    part = {"x": np.ones((1,) * 7, np.float32)}
    with pytest.raises(StatusError, match=re.escape("Only tensors with rank from 1 to 6 can be padded.")):
        merge([part], padding_rows=0, pad_dimensions=True)
    assert merge([part], padding_rows=0, pad_dimensions=False)["x"].ndim == 7
