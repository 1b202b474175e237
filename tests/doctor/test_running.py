"""A real server of this bundle: brought into trouble step by step, and what the doctor says of each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from servekit.engine import controller, state
from tests.doctor.homes import Home, codes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("running"))
    started = home.servekit("up", "--engine", "embedded", "--detach", "--no-demo")
    assert started.returncode == 0, started.stderr
    yield home
    home.servekit("down")
    for process in psutil.process_iter(["cmdline"]):
        if str(home.root) in " ".join(process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def wait_for(home: Home, code: str, *only: str) -> set[str]:
    for _ in range(40):
        found = codes(home.doctor("--only", ",".join(only)))
        if code in found:
            return found
        time.sleep(0.5)
    pytest.fail(f"no {code}: {found}")


def test_a_server_that_is_well_has_no_findings_and_its_ports_are_ours(running: Home) -> None:
    document = running.doctor("--only", "rendered,engine,ports,settings,labels,log,resources")
    assert document["findings"] == []
    seen = {check["name"]: check["looked_at"][0] for check in document["checks"]}
    assert seen["ports"] == f"{running.grpc_port} ours, {running.rest_port} ours"
    assert seen["labels"].startswith(f"grpc://127.0.0.1:{running.grpc_port} serves half_plus_two; stable 1, canary 2")
    assert "embedded server runs" in seen["engine"]
    assert "flags and 3 files of embedded server" in seen["settings"]


def test_a_label_moved_in_the_edit_that_adds_its_version_never_converges(running: Home) -> None:
    controller.end(running.bundle)  # it would go there in steps
    before = running.bundle.serving_yaml.read_text()
    shutil.copytree(running.model / "2", running.model / "3")
    running.configure(before.replace("[1, 2]", "[1, 2, 3]").replace("canary: 2", "canary: 3"))
    assert "labels.two-steps-in-one" in codes(running.doctor("--only", "labels"))
    assert running.servekit("render").returncode == 0
    found = wait_for(running, "log.label-not-available", "labels", "log")
    assert {"labels.cannot-move", "labels.version-unknown"} <= found
    # The remedy: the label back, then forward when the version is there.
    running.configure(before.replace("[1, 2]", "[1, 2, 3]"))
    assert running.servekit("render").returncode == 0
    for _ in range(30):
        document = running.doctor("--only", "labels,log")
        if not document["findings"]:
            break
        time.sleep(0.3)
    assert document["findings"] == []
    running.configure(before)
    assert running.servekit("render").returncode == 0


def test_a_batching_change_waits_for_the_next_start(running: Home) -> None:
    before = running.bundle.serving_yaml.read_text()
    running.configure(before + "batching: {max_batch_size: 64}\n")
    assert running.servekit("render").returncode == 0
    document = running.doctor("--only", "rendered")
    assert codes(document) == {"rendered.restart-needed"}
    running.configure(before)


def test_a_server_that_nobody_remembers_is_found_and_can_be_ended(running: Home, tmp_path: Path) -> None:
    """The state was lost: `down` cannot know it."""
    path = state.path(running.bundle)
    saved = path.read_text()
    pid = state.read_running(running.bundle)
    assert pid is not None
    path.unlink()
    try:
        (found,) = [one for one in running.doctor("--only", "engine")["findings"] if one["code"] == "engine.orphan"]
        assert (found["place"], found["remedy"]) == (f"process {pid.pid}", f"kill {pid.pid}")
        assert "ports.taken" in codes(running.doctor("--only", "ports"))
    finally:
        path.write_text(saved)


def test_a_server_that_died_is_told_with_its_log(running: Home) -> None:
    """Last: it ends the server."""
    known = state.read_running(running.bundle)
    assert known is not None
    os.kill(known.pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(known.pid).wait(30)
    document = running.doctor("--only", "engine,ports,labels,settings,log")
    assert codes(document) == {"engine.ended"}
    (found,) = document["findings"]
    assert f"--log {known.log}" in found["remedy"]
