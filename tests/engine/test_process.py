from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest

from servekit.engine import log, process, state
from servekit.engine.state import EngineState
from servekit.paths import Bundle

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


def engine_state(pid: int, born: str) -> EngineState:
    now = datetime.now(timezone.utc)
    return EngineState("embedded", pid, born, "127.0.0.1", 8500, 8501, "hash", now.isoformat(), "server.log")


def test_a_state_is_read_back_and_says_whether_its_process_runs(tmp_path: Path) -> None:
    here = Bundle(tmp_path)
    assert state.read(here) is None
    mine = engine_state(os.getpid(), state.born(os.getpid()) or "")
    state.write(here, mine)
    assert state.read(here) == state.read_running(here) == mine
    assert mine.uptime_s(datetime.fromisoformat(mine.started) + timedelta(seconds=90)) == 90
    state.write(here, engine_state(os.getpid(), "another process with this number"))
    assert state.read_running(here) is None
    state.path(here).write_text("{")
    assert state.read(here) is None
    state.remove(here)
    state.remove(here)


def test_a_process_that_is_gone_or_a_zombie_was_not_born() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert state.born(child.pid)
    assert child.stdin
    child.stdin.write(b"\n")
    child.stdin.close()
    deadline = time.monotonic() + 20
    while state.born(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state.born(child.pid) is None
    child.wait()


def test_a_held_process_begins_when_it_is_let_go_with_the_number_it_had() -> None:
    command = [
        sys.executable,
        "-c",
        "import os, sys; print(os.getpid(), repr(sys.stdin.read()), sys.argv[1:])",
        "a b",
        "$x",
    ]
    child = process.spawn(command, subprocess.PIPE, when_we_die=None, held=True)
    birth = state.born(child.pid)
    time.sleep(0.1)
    assert "held" in psutil.Process(child.pid).cmdline()
    assert state.born(child.pid) == birth
    process.let_go(child)
    assert child.stdout
    assert child.stdout.read().decode().strip() == f"{child.pid} '' ['a b', '$x']"
    assert child.wait() == 0
    child.stdout.close()


def test_a_held_process_ends_with_whoever_dies_before_letting_it_go() -> None:
    """`up --detach` that is killed between starting the server and writing down where it is."""
    program = (
        "import os, signal, subprocess\n"
        "from servekit.engine import process\n"
        f"child = process.spawn({SLEEPER!r}, subprocess.DEVNULL, when_we_die=None, held=True)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while state.born(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_letting_go_of_one_that_has_ended_is_no_error() -> None:
    child = process.spawn(SLEEPER, subprocess.DEVNULL, when_we_die=None, held=True)
    child.kill()
    child.wait()
    process.let_go(child)


def test_a_process_ends_gently() -> None:
    child = process.spawn(SLEEPER, subprocess.DEVNULL, when_we_die=None)
    assert process.end(child.pid, state.born(child.pid) or "", 20)
    assert child.wait() == -signal.SIGTERM


def test_a_process_that_does_not_listen_is_killed() -> None:
    child = process.spawn(STUBBORN, subprocess.PIPE, when_we_die=None)
    assert child.stdout
    child.stdout.readline()
    assert not process.end(child.pid, state.born(child.pid) or "", 0.2)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


def test_a_stranger_with_the_same_number_is_left_alone() -> None:
    child = process.spawn(SLEEPER, subprocess.DEVNULL, when_we_die=None)
    assert process.end(child.pid, "born at another time", 1)
    assert child.poll() is None
    child.kill()
    child.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("outlives", [False, True])
@pytest.mark.slow
def test_a_foreground_child_dies_with_its_parent_even_when_that_is_killed(outlives: bool) -> None:
    program = f"""
import subprocess, signal, time
from servekit.engine.process import spawn
child = spawn({SLEEPER!r}, subprocess.DEVNULL, when_we_die={None if outlives else "signal.SIGTERM"})
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        child.wait(1 if outlives else 30)
        assert not outlives
    except psutil.TimeoutExpired:
        assert outlives
        child.kill()


def test_each_start_gets_a_new_log_and_keeps_the_last_one(tmp_path: Path) -> None:
    path = log.path(Bundle(tmp_path))
    for text in (b"first\n", b"second\n", b"third\n"):
        with log.start_new(path) as file:
            file.write(text)
    assert path.read_text() == "third\n"
    assert path.with_name("server.log.1").read_text() == "second\n"


def test_the_reason_of_an_end_is_found_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(
        "2026-11-22 04:00:00.1: I server.cc:77] Building\n"
        "2026-11-22 04:00:00.2: E loader.cc:9] Loading servable failed\n"
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {x}\n"
        "\n"
    )
    assert log.reason(path) == "UNKNOWN: 1 servable(s) did not become available: {x}"
    path.write_text("2026-11-22 04:00:00.2: E loader.cc:9] Loading servable failed\n")
    assert log.reason(path) == "Loading servable failed"
    assert log.reason(tmp_path / "missing") is None


def test_a_follower_passes_on_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("old\n")
    lines: list[str] = []
    follower = log.Follower(path, lines.append)
    with path.open("a") as file:
        file.write("new\n")
    follower.pass_on()
    follower.pass_on()
    follower.close()
    assert lines == ["new\n"]


def test_polls_that_change_nothing_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.touch()
    shown: list[str] = []
    follower = log.Follower(path, shown.append)
    begin, model, end = (
        "I core] Adding/updating models.\n",
        "I core]  (Re-)adding model: m\n",
        "Finished adding/updating models\n",
    )
    with path.open("a") as file:
        for text in (begin, model, end, begin, model[:10]):
            file.write(text)
        file.flush()
        follower.pass_on()
        assert shown == []
        for text in (model[10:], "E core] failed\n", begin, model, model, end, "I other\n"):
            file.write(text)
    follower.pass_on()
    follower.close()
    assert "".join(shown) == begin + model + "E core] failed\nI other\n"
