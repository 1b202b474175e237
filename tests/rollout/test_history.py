"""One file that several processes write, and that a full disk or a kill leaves whole."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from servekit.canary.advance import Progress
from servekit.paths import Bundle
from servekit.rollout import history
from servekit.rollout.at_work import at_work, only_one
from servekit.rollout.history import KEPT, Book, Event


def event(step: str, result: str = "done") -> Event:
    return Event(history.now(), "vit", step, result)


def write_many(root: Path, who: str) -> None:
    book = Book(Bundle(root))
    for number in range(30):
        told = event(f"{who} {number}")
        book.enter(lambda kept, told=told: kept.told(told))  # type: ignore[misc]


def test_several_processes_write_and_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, who)) for who in ("one", "other")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    steps = [one.step for one in history.read(Bundle(tmp_path)).events]
    assert sorted(steps) == sorted(f"{who} {number}" for who in ("one", "other") for number in range(30))


def test_what_could_not_be_written_is_written_with_the_next_entry(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    book = Book(bundle)
    book.enter(lambda kept: kept.began("vit", "load version 2"))
    in_the_way = history.path(bundle)
    in_the_way.unlink()
    in_the_way.mkdir()  # a rename onto it fails, as a write on a full disk does
    progress = Progress(1, 2, 100.0, failed=2)
    book.enter(lambda kept: kept.ended(event("load version 2")))
    book.enter(lambda kept: kept.progressed("vit", progress))
    assert book.read().progress == {"vit": progress}, "the count of failed checks is known all the same"
    in_the_way.rmdir()
    book.enter(lambda kept: kept.told(event("weight")))
    kept = history.read(bundle)
    assert [one.step for one in kept.events] == ["load version 2", "weight"]
    assert (kept.progress, dict(kept.phase)) == ({"vit": progress}, {})


def test_the_last_events_are_kept_and_what_came_after_one_is_found(tmp_path: Path) -> None:
    kept = history.History()
    for number in range(KEPT + 5):
        kept = kept.told(event(f"step {number}"))
    assert len(kept.events) == KEPT
    assert [one.step for one in history.since(kept.events, kept.events[-3])] == [f"step {KEPT + 3}", f"step {KEPT + 4}"]
    assert history.since(kept.events, event("step 0")) == kept.events


@pytest.mark.parametrize("text", ["", "{", "[]", '{"events": 1}', '{"schema": 1, "phase": {}, "events": [{"at": 1}]}'])
def test_a_file_that_is_none_is_an_empty_history(tmp_path: Path, text: str) -> None:
    bundle = Bundle(tmp_path)
    bundle.state.mkdir()
    history.path(bundle).write_text(text)
    assert history.read(bundle) == history.History()


def test_the_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    bundle.state.mkdir()
    old = {"at": "2026-01-01T00:00:00+00:00", "model": "vit", "step": "load version 2", "result": "done",
           "reason": "", "seconds": 1.5}  # fmt: skip
    history.path(bundle).write_text(json.dumps({"schema": 1, "phase": {}, "events": [old]}))
    assert history.read(bundle).events[0].seconds == 1.5


def test_others_see_who_is_at_work(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    assert at_work(bundle) is None
    with only_one(bundle, watches=True, metrics="http://127.0.0.1:1/metrics"):
        found = at_work(bundle)
        assert found is not None
        assert (found.watches, found.with_server, found.metrics) == (True, False, "http://127.0.0.1:1/metrics")
        with pytest.raises(Exception, match="another `servekit apply` is at work here"), only_one(bundle):
            pass
    assert at_work(bundle) is None
