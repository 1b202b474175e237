"""`servekit doctor` and the stack on a real engine, brought into trouble on purpose."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest

from tests.compose.conftest import Clone
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVING = "models: {half_plus_two: {versions: {specific: [1, 2]}, labels: {stable: 1, canary: 2}}}\n"


@pytest.fixture(scope="module")
def up(clone: Clone) -> Clone:
    """Model server and gateway, without a controller that would mend things, with a model that loads in a moment."""
    shutil.copytree(ROOT / "tests" / "models" / "half_plus_two", clone.root / "models" / "half_plus_two")
    (clone.root / "config" / "serving.yaml").write_text(SERVING)
    if os.geteuid() == 0:
        shutil.chown(clone.root / "config" / "serving.yaml", 1000, 1000)
    clone.compose("up", "--detach", "--wait", "tfserving", "gateway")
    return clone


def doctor(clone: Clone, *only: str, **variables: str) -> dict[str, Any]:
    before = dict(clone.env)
    clone.env.update(variables)
    try:
        answer = clone.servekit("doctor", "--json", *(["--only", ",".join(only)] if only else []))
    finally:
        clone.env.clear()
        clone.env.update(before)
    document: dict[str, Any] = json.loads(answer.stdout)
    assert answer.returncode == (0 if document["healthy"] else 1), answer.stderr
    return document


def codes(document: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in document["findings"]}


def render(clone: Clone, text: str) -> None:
    (clone.root / "config" / "serving.yaml").write_text(text)
    assert clone.servekit("render", "--allow-missing-models").returncode == 0


def test_a_stack_that_is_well_has_no_errors_and_no_warnings(up: Clone) -> None:
    document = doctor(up)
    assert document["counts"]["error"] == document["counts"]["warning"] == 0, document["findings"]
    seen = {check["name"]: " ".join(check["looked_at"]) for check in document["checks"]}
    assert f"{up.ports['REST_PORT']} ours" in seen["ports"]
    assert "sees it" in seen["rendered"]
    assert "user 10001 of the container" in seen["permissions"]
    assert "18 flags and 3 files of container" in seen["settings"]
    assert "stable 1, canary 2" in seen["labels"]
    assert "lines of docker logs" in seen["log"]
    assert sum(check["seconds"] for check in document["checks"]) < 60


def test_a_label_that_cannot_converge_is_seen_on_the_server_and_in_its_log(up: Clone) -> None:
    render(up, SERVING.replace("[1, 2]", "[1, 2, 3]").replace("canary: 2", "canary: 3"))
    try:
        for _ in range(40):
            found = codes(doctor(up, "labels", "log", "config"))
            if "log.label-not-available" in found:
                break
            time.sleep(0.5)
        assert {"log.label-not-available", "labels.cannot-move", "config.mistake"} <= found
    finally:
        render(up, SERVING)
    for _ in range(40):
        document = doctor(up, "labels", "log")
        if not document["findings"]:
            break
        time.sleep(0.5)
    assert document["findings"] == []


def test_models_that_the_container_s_user_may_not_read(up: Clone) -> None:
    folder = up.root / "models" / "half_plus_two"
    folder.chmod(0o700)
    try:
        assert codes(doctor(up, "permissions")) == {"permissions.closed"}
    finally:
        folder.chmod(0o755)


def test_variables_that_keep_the_stack_from_starting(up: Clone) -> None:
    assert codes(doctor(up, "compose", TFS_CPUS="64")) == {"compose.too-many-cpus"}
    assert codes(doctor(up, "compose", TFS_CPUS="many")) == {"compose.invalid"}
    assert "compose.open-port" in codes(doctor(up, "compose", BIND_ADDR="0.0.0.0"))


def test_another_version_than_the_one_that_runs(up: Clone) -> None:
    document = doctor(up, "compose", "tensorflow", TFS_VERSION="2.19.1")
    assert {"compose.image-absent", "compose.other-image", "tensorflow.newer-model"} <= codes(document)


def test_a_gpu_where_there_is_none(up: Clone) -> None:
    if shutil.which("nvidia-smi"):
        assert "gpu.no-driver" not in codes(doctor(up, "gpu", COMPOSE_PROFILES="gpu"))
        return
    assert {"gpu.no-driver", "gpu.no-runtime"} <= codes(doctor(up, "gpu", COMPOSE_PROFILES="gpu"))
    assert codes(doctor(up, "gpu")) == set()
