"""Starting a server of this bundle; any program does in its place."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from servekit.engine import server, state
from servekit.engine.server import Plan
from servekit.paths import Bundle
from tests.conftest import ROOT

SERVES = "import os, time; print('serving', os.environ['SERVEKIT_BIND_ADDRESS'], flush=True); time.sleep(60)"


def plan(program: str) -> Plan:
    return Plan("native", (sys.executable, "-c", program, "--flag=a b"), "127.0.0.1", 8500, 8501, "hash")


def wait_for_log(here: Bundle, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (here.state / "logs" / "server.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("detach", [True, False])
def test_a_started_server_is_written_down_and_is_the_program_itself(tmp_path: Path, detach: bool) -> None:
    here = Bundle(tmp_path)
    started = server.start(plan(SERVES), here, detach=detach)
    try:
        wait_for_log(here, "serving 127.0.0.1")
        assert state.read_running(here) == started.state
        assert psutil.Process(started.state.pid).cmdline()[-1] == "--flag=a b"
        assert started.ended() is None
    finally:
        started.stop()
    assert started.ended() == "SIGTERM"
    assert started.was_asked_to_end()
    assert state.read(here) is None


def test_a_program_that_ends_says_how(tmp_path: Path) -> None:
    started = server.start(plan("raise SystemExit(255)"), Bundle(tmp_path), detach=True)
    while started.ended() is None:
        time.sleep(0.02)
    assert started.ended() == "exit status 255"
    started.stop()


def test_in_the_foreground_the_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from servekit.engine import server\n"
        "from servekit.paths import Bundle\n"
        "from tests.engine.test_server import SERVES, plan\n"
        f"print(server.start(plan(SERVES), Bundle(Path({str(tmp_path)!r})), detach=False).state.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 20
    while sys.platform.startswith("linux") and state.born(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
