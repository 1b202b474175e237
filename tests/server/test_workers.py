"""So many things at a time, whoever does them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from servekit.server.workers import Workers


@pytest.fixture
def two() -> Iterator[Workers]:
    workers = Workers(2, "test")
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


def test_a_thread_is_started_when_there_is_work_for_it_and_used_again(two: Workers) -> None:
    def names() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("test-"))

    before = names()  # of other tests
    done: queue.SimpleQueue[None] = queue.SimpleQueue()
    assert names() == before
    for _ in range(5):
        two.submit(lambda: done.put(None))
        done.get(timeout=20)
        while two._idle == 0:
            time.sleep(0.001)
    assert len(names()) == len(before) + 1


def test_without_another_thread_the_ones_at_work_do_it(two: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    end, done = threading.Event(), threading.Event()
    two.submit(lambda: end.wait(20))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        two.submit(done.set)
    assert not done.wait(0.1)
    end.set()
    assert done.wait(20)
