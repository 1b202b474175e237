"""The manager with a loader of text files, in its own thread and tick by tick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servekit.errors import Code
from servekit.server.manager import AspiredVersionsManager
from servekit.server.servable import ServableId, State
from servekit.server.states import EventBus, StateMonitor
from tests.server.text_loader import TextLoader, TextServable, write_version


class Manager:
    """A manager whose decisions are taken by the test; `states()` reads `2:START 1:AVAILABLE`."""

    def __init__(self, base: Path, **options: float) -> None:
        self.base = base
        self.loader = TextLoader()
        self.events = EventBus()
        self.monitor: StateMonitor = self.events.follow()
        arguments = {"max_num_load_retries": 0, "load_retry_interval_s": 30.0, **options}
        self.manager = AspiredVersionsManager(self.loader, self.events, **arguments)  # type: ignore[arg-type]

    def want(self, *versions: int, name: str = "m") -> None:
        self.manager.set_aspired_versions(name, {v: self.base / str(v) for v in versions})

    def settle(self) -> None:
        while self.manager.decide_once():
            pass

    def states(self, name: str = "m") -> str:
        return " ".join(f"{s.id.version}:{s.state.name}" for s in self.monitor.versions(name))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.01)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Manager]]:
    managers: list[Manager] = []

    def make(*versions: int, **options: float) -> Manager:
        for version in versions:
            write_version(tmp_path, version)
        managers.append(Manager(tmp_path, **options))
        return managers[-1]

    yield make
    for manager in managers:
        manager.loader.gate.set()
        manager.manager.stop()


def test_the_highest_version_is_loaded_first_and_all_become_available(made: Callable[..., Manager]) -> None:
    m = made(1, 2)
    m.want(1, 2)
    m.settle()
    assert m.loader.journal == ["load m 2", "load m 1"]
    assert m.states() == "2:AVAILABLE 1:AVAILABLE"


def test_a_new_version_is_available_before_the_old_one_goes(made: Callable[..., Manager]) -> None:
    m = made(1, 2)
    m.want(1)
    m.settle()
    m.want(2)
    assert m.manager.decide_once()
    assert m.states() == "2:AVAILABLE 1:AVAILABLE"
    assert m.manager.decide_once()
    assert m.states() == "2:AVAILABLE 1:END"


def test_a_surplus_version_goes_before_the_new_one_loads(made: Callable[..., Manager]) -> None:
    m = made(1, 2, 3)
    m.want(1, 2)
    m.settle()
    m.want(3)
    assert m.manager.decide_once()
    assert m.states() == "3:START 2:AVAILABLE 1:END"
    m.settle()
    assert m.states() == "3:AVAILABLE 2:END 1:END"


def test_an_unloaded_version_is_closed_and_can_be_loaded_again(made: Callable[..., Manager]) -> None:
    m = made(1)
    m.want(1)
    m.settle()
    with m.manager.serving.acquire("m", 1) as handle:
        servable = handle.servable
    m.want()
    m.settle()
    assert isinstance(servable, TextServable)
    assert servable.closed
    m.want(1)
    m.settle()
    assert m.states() == "1:AVAILABLE"
    assert m.loader.journal == ["load m 1", "load m 1"]


def test_a_version_that_cannot_be_loaded_ends_with_its_error_and_disturbs_nobody(made: Callable[..., Manager]) -> None:
    m = made(1)
    write_version(m.base, 2, "broken")
    m.want(1)
    m.settle()
    m.want(2)
    m.settle()
    assert m.states() == "2:END 1:AVAILABLE"
    error = m.monitor.versions("m")[0].error
    assert error is not None
    assert (error.code, error.message) == (Code.DATA_LOSS, "it is broken")


def test_a_bug_in_a_loader_is_an_internal_error_of_that_version(made: Callable[..., Manager]) -> None:
    m = made()
    write_version(m.base, 1, "bug")
    m.want(1)
    m.settle()
    error = m.monitor.versions("m")[0].error
    assert error is not None
    assert error.code is Code.INTERNAL


def test_a_failed_version_is_not_tried_again_while_it_stays_wanted(made: Callable[..., Manager]) -> None:
    m = made()
    path = write_version(m.base, 1, "broken")
    m.want(1)
    m.settle()
    (path / "model.txt").write_text("repaired")
    m.want(1)
    m.settle()
    assert m.states() == "1:END"
    m.want()
    m.settle()
    m.want(1)
    m.settle()
    assert m.states() == "1:AVAILABLE"


def test_wanting_back_a_version_that_is_only_kept_waits_until_it_is_gone(made: Callable[..., Manager]) -> None:
    """Deleting a broken version under `latest 1` and publishing it again does not load it, as in TF Serving."""
    m = made(1)
    write_version(m.base, 2, "broken")
    m.want(1)
    m.settle()
    m.want(2)
    m.settle()
    m.want(1)  # 2 was deleted: 1, unwanted but kept, is wanted back
    m.settle()
    m.want(2)  # 2 is there again, repaired
    (m.base / "2" / "model.txt").write_text("repaired")
    m.settle()
    assert m.states() == "2:END 1:AVAILABLE"
    write_version(m.base, 3)
    m.want(3)
    m.settle()
    assert m.states() == "3:AVAILABLE 2:END 1:END"


def test_files_of_another_base_path_do_not_replace_a_loaded_version(
    made: Callable[..., Manager], tmp_path: Path
) -> None:
    m = made(1)
    m.want(1)
    m.settle()
    m.manager.set_aspired_versions("m", {1: write_version(tmp_path / "other", 1, "other")})
    m.settle()
    assert m.loader.journal == ["load m 1"]


def test_loading_is_retried(made: Callable[..., Manager]) -> None:
    m = made(max_num_load_retries=2, load_retry_interval_s=0.01)
    write_version(m.base, 1, "broken")
    m.want(1)
    m.settle()
    assert m.loader.journal == ["load m 1"] * 3
    assert m.states() == "1:END"


def test_with_load_threads_leaving_the_policy_cancels_the_retries(made: Callable[..., Manager]) -> None:
    m = made(num_load_threads=1, max_num_load_retries=5, load_retry_interval_s=60.0)
    write_version(m.base, 1, "broken")
    m.want(1)
    m.settle()
    m.until(lambda: len(m.loader.journal) == 1)
    m.want()
    m.settle()
    m.until(lambda: m.states() == "1:END")
    assert m.loader.journal == ["load m 1"]


def test_with_load_threads_two_models_load_at_the_same_time(made: Callable[..., Manager]) -> None:
    m = made(1, num_load_threads=2)
    m.loader.gate.clear()
    m.want(1, name="a")
    m.want(1, name="b")
    m.settle()
    m.until(lambda: len(m.loader.journal) == 2)
    m.loader.gate.set()
    m.until(lambda: m.states("a") == m.states("b") == "1:AVAILABLE")


def test_without_load_threads_one_load_delays_the_next(made: Callable[..., Manager]) -> None:
    m = made(1)
    m.loader.gate.clear()
    m.manager.start()
    m.want(1, name="a")
    m.want(1, name="b")
    m.until(lambda: len(m.loader.journal) == 1)
    time.sleep(0.3)
    assert len(m.loader.journal) == 1
    m.loader.gate.set()
    m.until(lambda: m.states("a") == m.states("b") == "1:AVAILABLE")


def test_a_running_request_keeps_its_version_and_delays_what_comes_next(made: Callable[..., Manager]) -> None:
    m = made(1, 2)
    m.want(1)
    m.settle()
    handle = m.manager.serving.acquire("m", None)
    m.want(2)
    deciding = threading.Thread(target=m.settle)
    deciding.start()
    m.until(lambda: ServableId("m", 2) in m.manager.serving.available())
    # The new version answers already, but nobody is told before the old map's last request has ended.
    with m.manager.serving.acquire("m", None) as newer:
        assert newer.id == ServableId("m", 2)
    time.sleep(0.2)
    assert m.states() == "2:LOADING 1:AVAILABLE"
    handle.release()
    deciding.join(10)
    assert m.states() == "2:AVAILABLE 1:END"


def test_stopping_does_not_wait_for_a_request_or_a_retry(made: Callable[..., Manager]) -> None:
    m = made(1, max_num_load_retries=5)
    m.manager.start()
    m.want(1)
    m.until(lambda: m.states() == "1:AVAILABLE")
    handle = m.manager.serving.acquire("m", None)
    m.want()
    m.until(lambda: m.states() == "1:UNLOADING")
    began = time.monotonic()
    m.manager.stop()
    assert time.monotonic() - began < 10  # else it would wait for ever
    handle.release()


def test_states_of_versions_that_ended_stay_listed(made: Callable[..., Manager]) -> None:
    m = made(1)
    m.want(1)
    m.settle()
    m.want()
    m.settle()
    assert m.monitor.state(ServableId("m", 1)) is not None
    assert [s.state for s in m.monitor.versions("m")] == [State.END]
