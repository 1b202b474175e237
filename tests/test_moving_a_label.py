"""The main job's promise: edit a label in serving.yaml, render, and the running server follows; nobody notices."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from servekit.client.client import Client
from servekit.config.flags import server_flags
from servekit.config.load import load
from servekit.errors import StatusError
from servekit.model_spec import ModelSpec
from tests import plain_http
from tests.conftest import RunningServer, Serve

pytestmark = pytest.mark.slow

SERVING = """\
models:
  half_plus_two:
    base_path: {models}/half_plus_two
    versions: {{specific: [1, 2]}}
    labels:
      stable: 1
      canary: {canary}
server: {{poll_seconds: 1}}
"""


class Deployment:
    def __init__(self, folder: Path, models: Path) -> None:
        self.config, self.rendered, self.models = folder / "serving.yaml", folder / "rendered", models

    def render(self, canary: int | str) -> subprocess.CompletedProcess[str]:
        self.config.write_text(SERVING.format(models=self.models, canary=canary))
        files = ["--config", str(self.config), "--out", str(self.rendered)]
        command = [sys.executable, "-m", "servekit", "render", *files]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Deployment:
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), models)
    assert deployment.render(canary=1).returncode == 0
    return deployment


@pytest.fixture(scope="module")
def server(serve: Serve, deployment: Deployment) -> RunningServer:
    flags = server_flags(load(deployment.config), rendered=deployment.rendered, port=0, rest_api_port=0)
    return serve(*(flag for flag in flags if not flag.startswith(("--port=", "--rest_api_port="))))


def answer(server: RunningServer, label: str) -> float:
    body = {"instances": [1.0]}
    response = plain_http.post(f"{server.rest}/v1/models/half_plus_two/labels/{label}:predict", json=body, timeout=30)
    assert response.status_code == 200, response.text
    return float(response.json()["predictions"][0])


def wait_for(server: RunningServer, label: str, version: int, seconds: float) -> None:
    """Counts looks instead of the clock: a machine that stands still for a second uses up one of them."""
    url = f"{server.rest}/v1/models/half_plus_two/labels/{label}/metadata"
    for look in range(round(seconds / 0.05) + 1):
        time.sleep(0.05 if look else 0)
        if (seen := int(plain_http.get(url).json()["model_spec"]["version"])) == version:
            return
    pytest.fail(f"{label} is still version {seen}\n{server.log_text()}")


def test_a_label_moves_within_the_polling_interval_and_no_request_fails(
    server: RunningServer, deployment: Deployment
) -> None:
    by_version = {1: answer(server, "stable"), 2: None}
    assert answer(server, "canary") == by_version[1]
    failures, answers, stop = list[str](), Counter[tuple[str, float]](), threading.Event()

    def loop(url: str) -> None:
        spec = ModelSpec("half_plus_two", version_label="canary")
        with Client(url) as client:
            while not stop.is_set():
                try:
                    prediction = client.predict(spec, [1.0])
                    answers[url[:4], float(next(iter(prediction.outputs.values()))[0])] += 1
                except StatusError as error:
                    failures.append(str(error))

    clients = [
        threading.Thread(target=loop, args=(url,)) for url in (server.rest, f"grpc://{server.grpc}") for _ in "ab"
    ]
    for client in clients:
        client.start()
    try:
        for version in (2, 1, 2):
            assert deployment.render(canary=version).returncode == 0
            wait_for(server, "canary", version, seconds=5)
            time.sleep(0.3)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not failures
    assert answer(server, "stable") == by_version[1]
    assert {(protocol, value == by_version[1]) for protocol, value in answers} == {
        ("http", True),
        ("http", False),
        ("grpc", True),
        ("grpc", False),
    }


def test_an_edit_that_cannot_work_is_refused_and_the_server_keeps_its_labels(
    server: RunningServer, deployment: Deployment
) -> None:
    assert deployment.render(canary=2).returncode == 0
    wait_for(server, "canary", 2, seconds=5)
    before = (deployment.rendered / "models.config").read_bytes()
    result = deployment.render(canary=3)
    assert result.returncode == 2
    assert (
        f"{deployment.config.name}:7: models.half_plus_two.labels.canary: points at version 3, which is not served"
        in (result.stderr)
    )
    assert "hint: " in result.stderr
    assert (deployment.rendered / "models.config").read_bytes() == before
    time.sleep(2)
    wait_for(server, "canary", 2, seconds=0)


def test_an_unparsable_models_config_leaves_the_old_one_serving(server: RunningServer, deployment: Deployment) -> None:
    assert deployment.render(canary=2).returncode == 0
    wait_for(server, "canary", 2, seconds=5)
    (deployment.rendered / "models.config").write_text("model_config_list { config {")
    server.wait_for_log("Failed to read ModelServerConfig file")
    assert answer(server, "stable") != answer(server, "canary")
    assert deployment.render(canary=1).returncode == 0  # a good file is taken up again
    wait_for(server, "canary", 1, seconds=5)
