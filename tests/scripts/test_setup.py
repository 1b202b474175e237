"""scripts/setup in a copy of the checkout: what a fresh machine sees when something is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9/simple"
OFFLINE = {
    "UV_INDEX_URL": NOWHERE,
    "UV_NO_CACHE": "1",
    "UV_HTTP_RETRIES": "0",
    "PIP_INDEX_URL": NOWHERE,
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_RETRIES": "0",
    "PIP_CONFIG_FILE": os.devnull,
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that scripts/setup reads, without an environment."""
    for name in ("scripts", "requirements", "servekit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts" / "setup", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_an_unknown_set_of_packages_is_one_clear_line(checkout: Path) -> None:
    result = setup(checkout, "everything")
    assert result.returncode == 2
    assert result.stderr == "error: scripts/setup: 'everything' is not a set of packages (run, dev)\n"


def test_without_a_fitting_python_the_versions_are_named(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "readlink", "cat", "cmp", "env"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    result = setup(checkout, PATH=str(tools))
    assert result.returncode == 2
    assert result.stderr.startswith("error: no Python 3.10 to 3.13 (64 bit) found on PATH\nhint: ")
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_without_a_network_it_says_so_and_leaves_nothing(checkout: Path) -> None:
    result = setup(checkout, **OFFLINE)
    assert result.returncode == 2
    assert "error: no network: the package index cannot be reached" in result.stderr
    assert "hint: " in result.stderr
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".servekit" / "setup.lock").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(checkout: Path) -> None:
    process = subprocess.Popen(
        [checkout / "scripts" / "setup"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (checkout / ".venv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(90) == 130
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".servekit" / "setup.lock").exists()


def test_an_environment_of_somebody_else_is_not_touched(checkout: Path) -> None:
    mine = checkout / ".venv" / "bin" / "python"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = setup(checkout)
    assert result.returncode == 2
    assert "is there and not made by scripts/setup\nhint: move it away: mv .venv .venv.old" in result.stderr
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_a_lock_whose_owner_is_gone_does_not_block(checkout: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock = checkout / ".servekit" / "setup.lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{gone.pid}\n")
    installed = checkout / ".venv"
    (installed / "bin").mkdir(parents=True)
    stamp = f"{checkout}\n" + "".join(
        (checkout / name).read_text() for name in ("requirements/run.txt", "pyproject.toml")
    )
    (installed / "installed-run").write_text(stamp)
    assert setup(checkout).returncode == 0  # up to date: neither lock nor network matter
    (installed / "installed-run").unlink()
    result = setup(checkout, **OFFLINE)
    assert result.returncode == 2
    assert not lock.exists()


@pytest.mark.slow
def test_a_lock_without_a_name_does_not_block(checkout: Path) -> None:
    lock = checkout / ".servekit" / "setup.lock"
    lock.mkdir(parents=True)
    (checkout / ".venv").mkdir()  # somebody else's: it ends there
    result = setup(checkout)
    assert "is there and not made by scripts/setup" in result.stderr
    assert not lock.exists()


def test_who_waits_for_another_installation_says_so(checkout: Path) -> None:
    lock = checkout / ".servekit" / "setup.lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{os.getpid()}\n")
    process = subprocess.Popen([checkout / "scripts" / "setup"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Waiting for another scripts/setup (pid {os.getpid()})\n"
    finally:
        process.kill()
        process.communicate()


def test_a_python_that_was_asked_for_and_does_not_fit_is_not_replaced_silently(checkout: Path) -> None:
    result = setup(checkout, PYTHON="/nonexistent")
    assert result.returncode == 2
    assert result.stderr.startswith("error: PYTHON=/nonexistent is no Python 3.10 to 3.13 (64 bit)\nhint: ")
