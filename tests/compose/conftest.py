"""The project's own docker-compose.yaml on a real engine: its own if none runs, with local images."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.compose import python_image, standin_images
from tests.compose.standin_images import TAG
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache" / "servekit"
PERSON = 1000
"""Owner of the clone where the tests are root: what `setup` writes has to belong to them."""


@dataclass(frozen=True)
class Clone:
    """A fresh clone, and what a person in it can call. `ports` by the variables of docker-compose.yaml."""

    root: Path
    env: dict[str, str]
    ports: dict[str, int]

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = 240) -> str:
        return self.run("docker-compose", *arguments, check=check, timeout_s=timeout_s).stdout

    def servekit(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "servekit", *arguments, check=False, timeout_s=timeout_s)

    def run(self, *command: str, check: bool = True, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and answer.returncode != 0:
            pytest.fail(f"{' '.join(command)}: exit status {answer.returncode}\n{answer.stdout}\n{answer.stderr}")
        return answer

    def inspect(self, service: str) -> dict[str, Any]:
        identifier = self.compose("ps", "--all", "--quiet", service).strip()
        described: dict[str, Any] = json.loads(self.run("docker", "inspect", identifier).stdout)[0]
        return described

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        answer = self.run("docker-compose", "exec", "-T", service, *command, check=check)
        return answer.stdout + answer.stderr


@contextmanager
def locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[TextIO]:
    """Among all test processes of this person on this machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / name).open("w") as lock:
        fcntl.flock(lock, kind)
        yield lock


@pytest.fixture(scope="session")
def engine() -> Iterator[dict[str, str]]:
    """Environment with DOCKER_HOST. Test processes share the engine; the last one stops it, and images stay."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("docker-compose", path=path) is None:
        pytest.skip("no docker-compose (its package needs Python 3.11)")
    script = str(ROOT / "scripts" / "engine")
    with ExitStack() as using:
        with locked("engine.starting"):
            started = subprocess.run([script, "start"], capture_output=True, text=True, check=False)
            if started.returncode != 0:
                pytest.skip(started.stderr.strip().splitlines()[-1])
            users = using.enter_context(locked("engine.users", fcntl.LOCK_SH))
        yield {**os.environ, "PATH": path, "DOCKER_HOST": started.stdout.strip()}
        with locked("engine.starting"):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            subprocess.run([script, "stop"], check=True)


@pytest.fixture(scope="module")
def clone(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """With images for every service, nothing started, nothing rendered, no models."""
    root = tmp_path_factory.mktemp("fresh") / "servekit"
    _check_out(root)
    names = ("GRPC_PORT", "REST_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    ports = {name: free_port() for name in names}
    versions = {f"{name}_VERSION": TAG for name in ("SERVEKIT", "TFS", "ENVOY", "PROMETHEUS", "GRAFANA")}
    env = engine | versions | {name: str(port) for name, port in ports.items()}
    env |= {"SERVEKIT_HOME": str(root), "PYTHONPATH": str(root)}
    env |= {"COMPOSE_PROJECT_NAME": f"servekit-test-{root.parent.name}-{os.getpid()}"}
    with locked("images"):
        env["PYTHON_IMAGE"] = python_image.build(engine)
        here = Clone(root, env, ports)
        here.compose("build", "--quiet", "setup")
        standin_images.build(env["PYTHON_IMAGE"], engine)
        here.run("docker", "image", "rm", "--force", f"servekit:{TAG}")  # for `up` to build, as in a fresh clone
    try:
        yield here
    finally:
        here.compose("down", "--volumes", "--timeout", "5", check=False)


def _check_out(root: Path) -> None:
    """What git would check out, with what is not committed yet."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listing.stdout.split("\0"):
        source, target = ROOT / name, root / name
        if name and source.is_file() and not name.startswith("tests/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{PERSON}:{PERSON}", str(root)], check=True)
