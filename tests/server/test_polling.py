"""Who answers: the thread that polls, or another one."""

from __future__ import annotations

import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from servekit.protos import messages
from servekit.server.polling import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_KINDS, QUICK_S, TAKE_OVER_S, Polling, Quick
from servekit.tensors import to_proto
from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.standing_still import StandingStill

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def test_what_was_quick_or_is_not_known_is_expected_to_be_quick() -> None:
    quick = Quick()
    assert quick.expected("a", 0.0)
    quick.took("a", QUICK_S / 2, 0.0)
    assert quick.expected("a", 0.0)


def test_what_was_slow_is_tried_again_after_a_pause_that_doubles_until_it_is_quick() -> None:
    quick, now, pauses = Quick(), 0.0, []
    for _ in range(15):
        quick.took("a", 2 * QUICK_S, now)
        pauses.append(next(n for n in range(100_000) if quick.expected("a", now + n / 1000)) / 1000)
        now += pauses[-1]
    assert pauses[:5] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16], abs=0.002)
    assert (pauses[0], pauses[-1]) == pytest.approx((FIRST_PAUSE_S, LONGEST_PAUSE_S), abs=0.002)
    assert quick.expected("b", now)
    quick.took("a", QUICK_S / 2, now)
    quick.took("a", 2 * QUICK_S, now)
    assert quick.expected("a", now + FIRST_PAUSE_S)


def test_kinds_that_strangers_invent_do_not_fill_the_memory() -> None:
    quick = Quick()
    for number in range(3 * MAX_KINDS):
        quick.took(number, 1.0, 0.0)
    assert len(quick._pauses) <= MAX_KINDS


class Turns:
    """What a polling thread does: calls what it is given; None ends it."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.long_absences = 0
        self.polling = Polling(self._turn, "test")
        self.polling.start()

    def _turn(self) -> bool:
        work = self.work.get()
        if work is None:
            return False
        left = time.monotonic()
        self.polling.leave()
        work()
        self.polling.back()
        self.long_absences += time.monotonic() - left >= TAKE_OVER_S  # on a machine that stands still
        return True

    def thread(self, within_s: float = 20.0) -> threading.Thread:
        """The thread that polls now."""
        told: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.work.put(lambda: told.put(threading.current_thread()))
        return told.get(timeout=within_s)


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns()
    yield turns
    turns.work.put(None)
    turns.polling.join()


def test_one_thread_polls_as_long_as_it_comes_back_soon(turns: Turns) -> None:
    threads = [turns.thread() for _ in range(101)]
    changes = sum(before is not after for before, after in itertools.pairwise(threads))
    assert changes <= turns.long_absences
    assert turns.long_absences < 100


@pytest.mark.parametrize("idle_s", [0.0, 0.5], ids=["busy", "after a pause"])
def test_another_thread_polls_on_while_one_stays_away_and_the_first_one_ends(turns: Turns, idle_s: float) -> None:
    first = turns.thread()
    time.sleep(idle_s)
    stay_away = threading.Event()
    turns.work.put(lambda: stay_away.wait(20) or None)  # type: ignore[arg-type]
    second = turns.thread()
    assert second is not first
    stay_away.set()
    first.join(20)
    assert not first.is_alive()
    assert turns.thread() is second


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve(
        "--model_name=s",
        f"--model_base_path={models / 'sleep'}",
        "--grpc_max_threads=2",
        "--rest_api_num_threads=3",
        "--rest_api_timeout_in_ms=3000",
    )


def seconds_of(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_call_that_turns_out_to_be_slow_holds_up_nobody(server: RunningServer) -> None:
    def request(milliseconds: int) -> bytes:
        message = messages.PredictRequest()
        message.model_spec.name = "s"
        message.inputs["ms"].CopyFrom(to_proto(np.array([milliseconds], np.int32)))
        data: bytes = message.SerializeToString()
        return data

    with grpc.insecure_channel(server.grpc) as channel:
        predict = channel.unary_unary(PREDICT)
        for _ in range(20):
            predict(request(0), timeout=10)
        slow = predict.future(request(3000), timeout=20)
        time.sleep(0.2)
        with StandingStill() as still:
            took = [seconds_of(lambda: predict(request(0), timeout=10)) for _ in range(20)]
        assert not slow.done()
        assert statistics.median(took) < 0.05
        assert sum(took) < 1.2 + still.seconds
        slow.result()


def test_a_request_that_turns_out_to_be_slow_holds_up_nobody_and_its_time_limit_holds(server: RunningServer) -> None:
    url = f"{server.rest}/v1/models/s:predict"

    def quick(client: httpx.Client) -> None:
        assert client.post(url, json={"instances": [0]}).json() == {"predictions": [0]}

    with plain_http.Http(timeout=20) as client, ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            quick(client)
        time.sleep(0.1)
        slow = pool.submit(httpx.post, url, json={"instances": [3500]}, timeout=20)
        time.sleep(0.2)
        with StandingStill() as still:
            took = [seconds_of(lambda: quick(client)) for _ in range(20)]
        assert not slow.done()
        assert statistics.median(took) < 0.05
        assert sum(took) < 1.2 + still.seconds
        assert slow.result().status_code == 504
        quick(client)
