"""Edits that come while a version still loads: the controller goes on from what serving.yaml says by then."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from servekit.client import Client
from servekit.export.tfrecord import write_records
from servekit.export.warmup import prediction_log
from servekit.gateway.answers import served_generation
from servekit.gateway.files import read_splits
from servekit.gateway.splits import Split, generation
from servekit.rollout import history
from servekit.rollout.at_work import at_work
from tests.canary.conftest import MODEL, Clients, Stack, wait_until

pytestmark = pytest.mark.slow

LOADS_S = {5: 9.0, 6: 9.0}
"""How long versions take: 0.3 s for each of their records of warm-up."""
BUSY = -4.0
OTHER = "other"


@pytest.fixture(scope="module", autouse=True)
def watching(stack: Stack, models: Path) -> Iterator[Path]:
    """A controller at work, and two versions that load slowly; gives its log."""
    record = prediction_log(MODEL, "serving_default", "predict", {"x": np.array([BUSY], np.float32)})
    for version, seconds in LOADS_S.items():
        folder = stack.bundle.models / MODEL / str(version)
        shutil.copytree(models / "moody" / "1", folder)
        (folder / "assets.extra").mkdir()
        records = [record.SerializeToString()] * round(seconds / 0.3)
        write_records(folder / "assets.extra" / "tf_serving_warmup_requests", records)
    shutil.copytree(models / "half_plus_two", stack.bundle.models / OTHER)
    log_file = stack.root / "controller.log"
    with log_file.open("wb") as out:
        command = [sys.executable, "-m", "servekit", "apply", "--watch", *stack.reach]
        process = subprocess.Popen(command, env=stack.env(), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: (found := at_work(stack.bundle)) and found.watches)
        yield log_file
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert "Traceback" not in log_file.read_text()


def write(stack: Stack, model: str, other: str) -> None:
    text = f"models:\n  {MODEL}: {model}\n  {OTHER}: {other}\nserver: {{max_num_load_retries: 0}}\n"
    staged = stack.yaml.with_name("new")
    staged.write_text(text)
    staged.replace(stack.yaml)


def is_loading(stack: Stack, version: int) -> bool:
    with Client(f"grpc://127.0.0.1:{stack.ports[0]}") as client:
        return any(one.version == version and one.state == "LOADING" for one in client.status(MODEL).versions)


def steps_since(stack: Stack, moment: int) -> list[str]:
    return [f"{event.step}: {event.result}" for event in history.read(stack.bundle).events[moment:]]


def split(stack: Stack, model: str) -> Split | None:
    """As the gateway serves it."""
    splits = read_splits(stack.bundle, container=False)
    if served_generation(stack.gateway_url, 2) != generation(splits, stack.serving()):
        return None
    return splits.get(model)


ONE = "{versions: {specific: [1]}, labels: {stable: 1}}"
TWO = "{versions: {specific: [1, 2]}, labels: {stable: 1, canary: 2}, canary: {weight: 50}}"


def started(version: int) -> str:
    return TWO.replace("2", str(version))


def test_promoted_while_it_loads_it_becomes_stable_at_once_and_never_was_a_canary(
    stack: Stack, clients: Clients
) -> None:
    write(stack, started(5), ONE)
    wait_until(lambda: is_loading(stack, 5))
    assert stack.canary("promote", MODEL).returncode == 0
    assert is_loading(stack, 5), "it loads longer than the command takes"
    wait_until(lambda: stack.available() == {5} and stack.labels() == {"stable": 5})
    assert stack.split() == Split()
    steps = steps_since(stack, 0)
    assert "load version 5: superseded" in steps
    assert "move label canary" not in " ".join(steps)
    assert clients.errors == []
    assert clients.versions[1] > 0


def test_aborted_while_it_loads_it_never_gets_a_request_and_another_model_does_not_wait(
    stack: Stack, clients: Clients
) -> None:
    write(stack, ONE, TWO)
    wait_until(lambda: stack.available() == {1} and split(stack, OTHER) == Split(50))
    before = len(steps_since(stack, 0))
    write(stack, started(6), TWO)
    wait_until(lambda: is_loading(stack, 6))
    write(stack, ONE, ONE)
    wait_until(lambda: split(stack, OTHER) == Split())
    assert is_loading(stack, 6), "its canary lost its requests long before"
    clients.versions.clear()
    wait_until(lambda: "retire version 6: done" in steps_since(stack, before))
    steps = steps_since(stack, before)
    assert steps.index("retire version 2: done") < steps.index("retire version 6: done")
    assert "give 50 % of unlabelled requests to canary: done" not in steps
    assert set(clients.versions) == {1}
    assert clients.errors == []


def test_a_version_that_was_tried_while_it_was_copied_is_tried_again_when_it_is_whole(
    stack: Stack, models: Path
) -> None:
    write(stack, ONE, ONE)
    wait_until(lambda: stack.available() == {1} and stack.labels() == {"stable": 1})
    source, target = models / "half_plus_two" / "2", stack.bundle.models / MODEL / "7"
    shutil.copytree(source, target)
    graph = (source / "saved_model.pb").read_bytes()
    (target / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    before = len(steps_since(stack, 0))
    write(stack, started(7), ONE)
    wait_until(lambda: "load version 7: failed" in steps_since(stack, before))
    (target / "saved_model.pb").write_bytes(graph)
    wait_until(lambda: stack.labels() == {"stable": 1, "canary": 7})
    assert steps_since(stack, before).count("load version 7: failed") == 1
    wait_until(lambda: stack.split() == Split(50))
