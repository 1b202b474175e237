"""A bundle of its own in which `up`, `status` and `down` are typed as by a person: real processes, free ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT, free_port

SERVING = """
models:
  half_plus_two:
    versions: {specific: [1, 2]}
    labels: {stable: 1, canary: 2}
server: {port: %d, rest_api_port: %d, max_num_load_retries: 0}
"""


class Home:
    """A bundle with half_plus_two in two versions; `run` is the command line in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.grpc_port, self.rest_port = free_port(), free_port()
        self.started: list[subprocess.Popen[str]] = []
        shutil.copytree(ROOT / "config" / "templates", root / "config" / "templates")
        shutil.copytree(ROOT / "tests" / "models" / "half_plus_two", root / "models" / "half_plus_two")
        (root / "export").mkdir()
        self.configure(SERVING % (self.grpc_port, self.rest_port))

    def configure(self, text: str) -> None:
        (self.root / "config" / "serving.yaml").write_text(text)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "servekit", *arguments],
            cwd=ROOT,
            env={**os.environ, "SERVEKIT_HOME": str(self.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        process = self.popen(*arguments)
        out, err = process.communicate(timeout=seconds)
        assert (
            "Traceback" not in re.split(r"^    \d{4}-", err, maxsplit=1, flags=re.MULTILINE)[0]
        )  # a log is shown after it
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @property
    def state(self) -> Mapping[str, Any] | None:
        path = self.root / ".servekit" / "engine.json"
        return json.loads(path.read_text()) if path.exists() else None

    def processes(self) -> list[psutil.Process]:
        """All that live in this bundle, found by their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SERVEKIT_HOME") == str(self.root) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_for(self, what: str, seconds: float = 60) -> None:
        """Until a process of this bundle has `what` in its command line."""
        deadline = time.monotonic() + seconds
        while not any(what in command_line(process) for process in self.processes()):
            assert time.monotonic() < deadline, f"no process with {what!r}"
            time.sleep(0.05)


def command_line(process: psutil.Process) -> str:
    """Empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def assert_nothing_is_left(home: Home, seconds: float = 15) -> None:
    for _ in range(round(seconds / 0.1)):  # looks, not the clock: a machine may stand still
        if not (left := home.processes()):
            break
        time.sleep(0.1)
    assert not left, [command_line(process) for process in left]
    assert home.state is None
    for port in (home.grpc_port, home.rest_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
