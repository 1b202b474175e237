"""So many things at a time, whoever does them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from servekit.server.workers import Workers


@pytest.fixture
def two() -> Iterator[Workers]:
    workers = Workers(2, "test")
    workers.start()
    yield workers
    workers.stop()


def test_work_is_done_in_its_order_by_named_threads(two: Workers) -> None:
    done: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    first = threading.Event()
    two.submit(lambda: first.wait(20))
    for number in range(20):
        two.submit(lambda number=number: done.put((number, threading.current_thread().name)))  # type: ignore[misc]
    seen = [done.get(timeout=20) for _ in range(20)]
    first.set()
    assert [number for number, _ in seen] == list(range(20))
    assert {name for _, name in seen} <= {"test-0", "test-1"}


def test_a_borrowed_place_is_one_less_for_the_threads(two: Workers) -> None:
    assert two.borrow()
    assert two.borrow()
    assert not two.borrow()
    done = threading.Event()
    two.submit(done.set)
    assert not done.wait(0.1)
    two.give_back()
    assert done.wait(20)


def test_nothing_is_borrowed_while_something_waits(two: Workers) -> None:
    end = threading.Event()
    started = [threading.Event() for _ in range(2)]
    for event in started:
        two.submit(lambda event=event: (event.set(), end.wait(20)))  # type: ignore[misc]
    assert all(event.wait(20) for event in started)
    done = threading.Event()
    two.submit(done.set)
    assert not two.borrow()
    end.set()
    assert done.wait(20)


def test_what_waits_when_they_stop_is_dropped(two: Workers) -> None:
    end, dropped = threading.Event(), threading.Event()
    started = [threading.Event() for _ in range(2)]
    for event in started:
        two.submit(lambda event=event: (event.set(), end.wait(20)))  # type: ignore[misc]
    assert all(event.wait(20) for event in started)
    two.submit(dropped.set)
    two.stop()
    end.set()
    assert not dropped.wait(0.1)
