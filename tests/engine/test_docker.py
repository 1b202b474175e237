"""What is asked of Docker before it is trusted; the programs are scripts that answer as Docker does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from servekit.engine import docker, images, stack
from servekit.engine.choose import Unusable
from servekit.engine.docker import Compose, Container, Port, Service, Tools
from servekit.paths import Bundle

WORKS = """
case "$*" in
  "version "*) echo 28.5.2 ;;
  "compose version "*) echo v2.40.3-desktop.1 ;;
  *) exit 1 ;;
esac
"""


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_docker_with_its_compose_plugin(path: Path) -> None:
    program(path, "docker", WORKS)
    found = docker.tools()
    assert isinstance(found, Tools)
    assert str(found) == "Docker Engine 28.5.2, Compose 2.40.3-desktop.1"
    assert found.compose == (str(path / "docker"), "compose")


def test_compose_as_a_program_of_its_own(path: Path) -> None:
    program(path, "docker", '[ "$1" = version ] && echo 20.10.24 || { echo unknown command >&2; exit 1; }')
    assert docker.tools() == "Docker has no Compose plugin"
    program(path, "docker-compose", "echo 5.6.1")
    found = docker.tools()
    assert isinstance(found, Tools)
    assert found.compose == (str(path / "docker-compose"),)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo Cannot connect to the Docker daemon. >&2; exit 1", "no Docker engine answers: Cannot connect to the"),
        (WORKS.replace("v2.40.3-desktop.1", "2.17.2"), "Compose 2.17.2 is too old: 2.20 is needed"),
        ("exit 125", "no Docker engine answers: no reason given"),
    ],
    ids=["no engine", "old Compose", "no words"],
)
def test_a_docker_that_does_not_do_says_why(path: Path, body: str, why: str) -> None:
    program(path, "docker", body)
    said = docker.tools()
    assert isinstance(said, str)
    assert said.startswith(why)


def test_no_docker_at_all(path: Path) -> None:
    assert path.is_dir()
    assert docker.tools() == "no docker on PATH"


def test_a_docker_that_hangs_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ANSWERS_WITHIN_S", 0.3)
    program(path, "docker", "exec /bin/sleep 60")
    begin = time.monotonic()
    assert docker.tools() == "no Docker engine answers: no answer within 0.3 s"
    assert time.monotonic() - begin < 5


def test_what_compose_resolves_is_read() -> None:
    document = {
        "services": {
            "gateway": {
                "image": "envoyproxy/envoy:v1.40.0",
                "ports": [{"target": 8501, "published": "9501", "host_ip": "::1"}, {"target": 8500, "published": "1"}],
            },
            "setup": {"image": "servekit:1", "build": {"context": "."}},
        }
    }
    services = docker.services_of(document)
    assert services["setup"] == Service("servekit:1", True, {})
    assert services["gateway"].ports[8501] == Port("::1", 9501)
    assert str(services["gateway"].ports[8501]) == "[::1]:9501"
    # Where clients find what is published everywhere.
    assert stack.published(services) == {"REST_PORT": Port("::1", 9501), "GRPC_PORT": Port("127.0.0.1", 1)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:01.123456789Z", 1.123456789), ("1970-01-01T01:00:02+01:00", 2), ("1970-01-01T00:00:03Z", 3)],
)
def test_times_as_docker_writes_them(text: str, seconds: float) -> None:
    assert docker.timestamp(text) == pytest.approx(seconds)


def container(status: str = "running", restarts: int = 0, *, out_of_memory: bool = False) -> Container:
    return Container("abc", status, 100.0, 139, restarts, out_of_memory)


def test_how_a_server_ended() -> None:
    assert stack.how_it_ended(container(), 0) is None
    assert stack.how_it_ended(container(restarts=2), 2) is None
    assert stack.how_it_ended(container(restarts=3), 2) == "Docker had to start it again"
    assert stack.how_it_ended(container("restarting"), 0) == "Docker had to start it again"
    assert stack.how_it_ended(container("exited"), 0) == "exit status 139"
    assert stack.how_it_ended(container("running", 1, out_of_memory=True), 0) == "out of memory"
    assert stack.how_it_ended(None, 0) == "its container is gone"


def test_files_that_are_newer_than_the_server_ask_for_another_start(tmp_path: Path) -> None:
    here = Bundle(tmp_path)
    here.rendered_container.mkdir(parents=True)
    for name, when in (("start.sh", 101), ("batching.config", 99), ("models.config", 101)):
        (here.rendered_container / name).write_text("")
        os.utime(here.rendered_container / name, (when, when))
    assert stack.stale_files(here, stack.SERVER, container()) == ["start.sh"]
    (here.rendered_container / "gateway").mkdir()
    for name, when in (("envoy.yaml", 101), ("start.sh", 99), ("routes.yaml", 101)):
        (here.rendered_container / "gateway" / name).write_text("")
        os.utime(here.rendered_container / "gateway" / name, (when, when))
    assert stack.stale_files(here, stack.GATEWAY, container()) == ["envoy.yaml"]


def test_a_bundle_without_a_stack_is_for_another_engine(tmp_path: Path) -> None:
    compose = Compose(Tools("docker", ("docker", "compose"), "28", "2.40"), Bundle(tmp_path))
    found = images.probe(compose, lambda _line: None)
    assert found == Unusable(f"no docker-compose.yaml in {tmp_path}", "servekit up --engine embedded")


def test_our_own_image_is_built_and_never_asked_from_a_registry(path: Path, tmp_path: Path) -> None:
    """Two services run it, one of them builds it."""
    calls = tmp_path / "calls"
    services = {
        "setup": {"image": "servekit:1", "build": {"context": "."}},
        "exporter": {"image": "servekit:1"},
        "tfserving": {"image": "tensorflow/serving:2.21.0"},
    }
    (tmp_path / "config.json").write_text(json.dumps({"services": services}))
    (tmp_path / "docker-compose.yaml").write_text("")
    program(
        path,
        "docker",
        f"""
echo "$*" >>{calls}
case "$*" in
  *"config --format json") exec /bin/cat {tmp_path}/config.json ;;
  "manifest inspect tensorflow/serving:2.21.0" | *"pull tfserving") echo "{{}}" ;;
  *"build setup") echo no such host; exit 1 ;;
  *) exit 1 ;;
esac
""",
    )
    tools = Tools(str(path / "docker"), (str(path / "docker"), "compose"), "28", "2.40")
    said: list[str] = []
    found = images.probe(Compose(tools, Bundle(tmp_path)), said.append)
    assert found == Unusable("image servekit:1 cannot be built: no such host", "servekit up --engine embedded")
    assert said == ["docker compose pull tfserving", "docker compose build setup"]
    assert "manifest inspect servekit:1" not in calls.read_text()
