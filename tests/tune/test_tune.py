"""`servekit tune` with real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

SERVING = """\
# mine
models:
  half: {}          # one model
batching:
  max_batch_size: 8 # rows
  num_batch_threads: 1
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(ROOT / "config" / "templates", folder / "config" / "templates")
    shutil.copytree(models / "half_plus_two", folder / "models" / "half")
    (folder / "config" / "serving.yaml").write_text(SERVING)
    return folder


def tune(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "servekit", "tune", *arguments],
        cwd=ROOT,
        env={**os.environ, "SERVEKIT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_tuning_that_was_interrupted_goes_on_and_leaves_nothing_behind(home: Path) -> None:
    arguments = ("half", "--budget", "20s", "--clients", "2", "--slo-p99", "1m", "--json")
    with tune(home, *arguments) as first:
        assert first.stderr
        for line in first.stderr:
            if "] 1. " in line or "confirming" in line:  # a duel is over, or on a slow machine there is no time for one
                break
        servers = psutil.Process(first.pid).children(recursive=True)
        assert servers
        first.send_signal(signal.SIGINT)
        told = first.stderr.read()  # to its end, which is the process's
        assert first.wait(90) == 130
    assert "interrupted: the same command goes on from here" in told
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(servers, timeout=30)
    assert not alive
    assert (home / "config" / "serving.yaml").read_text() == SERVING
    assert not (home / "config" / "rendered").exists()

    second = tune(home, *arguments)
    out, told = second.communicate(timeout=200)
    assert second.returncode == 0, told
    assert "measurements of an earlier run are used" in told
    found = json.loads(out)
    assert (found["schema"], found["goal"]["clients"], found["engine"]) == (1, 2, "embedded")
    assert all(one["failed"] is None for one in found["tried"])
    assert set(found["confirmed"]) == {"current", "unbatched", "winner"}
    assert all(one["error_rate"] == 0 and one["cpu_ms"] > 0 for one in found["confirmed"].values())
    assert "<svg" in (home / ".servekit" / "tune" / "half.html").read_text()
    assert sorted(path.name for path in (home / ".servekit" / "tune").iterdir()) == [
        "half.html", "half.journal", "half.json",
    ]  # fmt: skip
    text = (home / "config" / "serving.yaml").read_text()
    assert ("# tuned: " in text) == bool(found["changes"])
    assert all(line in text for line in SERVING.splitlines()[:-1])


@pytest.mark.slow
def test_a_mistake_is_told_before_any_server(home: Path) -> None:
    for arguments, words in (
        (("nothing",), "nothing is not in config/serving.yaml, which has half"),
        (("half", "--label", "canary"), "half has no label canary"),
        (("half", "--version", "9"), "half has no version 9 on disk"),
        (("half", "--slo-p99", "fast"), "'fast': a duration such as 200ms"),
        (("half", "--label", "a", "--version", "1"), "exclude each other"),
    ):
        process = tune(home, *arguments)
        _, told = process.communicate(timeout=200)
        assert process.returncode in (1, 2)
        assert words in told
        assert "Traceback" not in told


@pytest.mark.slow
def test_a_server_that_does_not_start_is_an_error_with_its_log(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "bundle"
    shutil.copytree(home, other, ignore=shutil.ignore_patterns(".servekit"))
    for version in (other / "models" / "half").iterdir():
        (version / "saved_model.pb").write_bytes(b"garbage")
    (other / "config" / "serving.yaml").write_text(SERVING + "server: {max_num_load_retries: 0}\n")
    process = tune(other, "half", "--budget", "5s")
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "error: " in told
    assert "garbage" in told or "did not load" in told or "parse" in told
    assert "Traceback" not in told
    assert not (other / ".servekit" / "tune" / "half.servers").exists()
