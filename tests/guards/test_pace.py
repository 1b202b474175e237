"""Bounds on processor time that hold on any machine: each is a ratio to work of the same kind, measured beside it.

The least of several tries: other programs can only add to it. A bound is about twice what was measured when it was set
(in brackets), so it catches what makes something twice as costly, and not what a busy machine does.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from servekit.bench.generator import Generator
from servekit.bench.payload import requests
from servekit.bench.processor import cpu_seconds
from servekit.bench.traffic import Job, Shape
from servekit.config.load import typed
from servekit.config.render import render
from servekit.config.source import parse
from servekit.model_spec import ModelSpec
from tests.conftest import ROOT, RunningServer, Serve

TRIES = 5


def least(measured: Callable[[], float], tries: int = TRIES) -> float:
    return min(measured() for _ in range(tries))


def own_cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def childs_cpu(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def calibration() -> None:
    """Strings, dictionaries and JSON, as rendering is made of."""
    for number in range(2000):
        text = json.dumps({f"key {place}": [number, place, "x" * place] for place in range(10)})
        assert len(json.loads(text)) == 10


def test_a_command_starts_without_importing_much() -> None:
    """`servekit --version` to Python that imports a few modules of its own library (0.95)."""
    servekit = least(lambda: childs_cpu("-m", "servekit", "--version"))
    python = least(lambda: childs_cpu("-c", "import asyncio, json, ssl, argparse, http.client"))
    assert servekit / python < 2


def test_rendering_a_hundred_models_is_quick() -> None:
    """To a loop of strings and JSON (1.6), by turns: a processor's clock can change between two measurements."""
    entries = "".join(f"  model{number}: {{labels: {{stable: 1}}}}\n" for number in range(100))
    templates = ROOT / "config" / "templates"

    def rendering() -> None:
        serving = typed(parse(f"models:\n{entries}", "serving.yaml"))
        render(serving, models=Path("/models"), templates=templates)

    rendering()
    rendering()
    assert least(lambda: own_cpu(rendering) / own_cpu(calibration)) < 3


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve("--model_name=half", f"--model_base_path={models / 'half_plus_two'}")


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "bound"), [("gRPC", 40.0), ("REST", 35.0)])
def test_a_request_costs_the_embedded_server_little_beside_the_run_of_its_graph(
    server: RunningServer, generator: Generator, models: Path, protocol: str, bound: float
) -> None:
    """The server's processor time for an answer to that of running the session alone (20, 16)."""
    from servekit.server import session

    session.import_only_what_is_needed()
    alone = session.load_saved_model(models / "half_plus_two" / "2")
    definition = alone.signature_defs["serving_default"]
    feeds, fetches = {definition.inputs["x"].name: np.ones(1, np.float32)}, [definition.outputs["y"].name]
    alone.run(feeds, fetches)

    def runs() -> None:
        for _ in range(2000):
            alone.run(feeds, fetches)

    asked = requests(ModelSpec("half"), [{"x": np.ones(1, np.float32)}])[protocol]
    url = server.rest if protocol == "REST" else f"grpc://{server.grpc}"

    def served() -> float:
        before = cpu_seconds(server.process.pid)
        sample = generator.run(Job(url, asked, Shape(clients=4), seconds=1.0, warmup_s=0.0, timeout_s=10))
        after = cpu_seconds(server.process.pid)
        assert before is not None
        assert after is not None
        assert not sample.errors
        return (after - before) / len(sample.latencies_s)

    assert least(served, 3) / (least(lambda: own_cpu(runs)) / 2000) < bound
