"""`servekit bench` against a running server, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from servekit.bench.generator import Generator
from servekit.bench.processor import bottleneck, cpu_seconds, machine_cpu_seconds
from servekit.bench.report import Run, compared, document, judged, ratios, runs_of
from servekit.bench.traffic import Job, Request, Sample, Shape, together
from tests.conftest import ROOT, RunningServer, Serve, free_port
from tests.standing_still import StandingStill


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve("--model_name=half", f"--model_base_path={models / 'half_plus_two'}")


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Job], Sample]]:
    with Generator() as generator:
        yield generator.run


def bench(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    urls = ["--rest-url", server.rest, "--grpc-url", f"grpc://{server.grpc}"]
    return subprocess.run(
        [sys.executable, "-m", "servekit", "bench", *arguments, *urls],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_rest_and_grpc_are_measured_on_the_same_requests(server: RunningServer, tmp_path: Path) -> None:
    plot = tmp_path / "bench.html"
    arguments = ("half", "--clients", "1,4", "--seconds", "0.6", "--warm-up", "0.1", "--json", "--plot", str(plot))
    result = bench(server, *arguments)
    assert result.returncode == 0, result.stderr
    page = json.loads(result.stdout)
    assert page["schema"] == 1
    assert [(run["protocol"], run["level"]) for run in page["runs"]] == [
        ("REST", 1), ("gRPC", 1), ("REST", 4), ("gRPC", 4),
    ]  # fmt: skip
    for one in page["runs"]:
        assert one["errors"] == {}
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p99"] <= one["latency_ms"]["max"]
        assert one["per_second"] == pytest.approx(one["requests"] / one["seconds"], rel=0.01)
    assert "REST, 1 client, round 1 of 3: 0 of 0 s, " in result.stderr  # progress, though nobody watches a terminal
    assert {run["bottleneck"] for run in page["runs"]} <= {"client", "server", "machine", "nothing", "unknown"}
    assert [ratio["what"] for ratio in page["ratios"]] == ["gRPC / REST", "gRPC / REST"]
    assert "<svg" in plot.read_text()
    before = tmp_path / "before.json"
    before.write_text(result.stdout)
    again = bench(server, "half", "--clients", "1", "--seconds", "0.3", "--warm-up", "0.1", "--compare", str(before))
    assert again.returncode == 0, again.stderr
    assert "now / then (REST, 1): rate" in again.stdout


@pytest.mark.slow
def test_a_mistake_is_told_before_any_load(server: RunningServer, tmp_path: Path) -> None:
    for arguments, words in (
        (("nothing",), "Servable not found for request: Latest(nothing)"),
        (("half", "--signature", "nope"), "has no signature nope"),
        (("half", "--clients", "0"), "numbers from 1"),
        (("half", "--clients", "1", "--rate", "5"), "exclude each other"),
        (("half", "--label", "canary"), "canary"),
        (("half", "--compare", str(_garbage(tmp_path))), "no result of servekit bench"),
    ):
        result = bench(server, *arguments)
        assert result.returncode in (1, 2), result.stdout
        assert words in result.stderr
        assert "Traceback" not in result.stderr


def _garbage(folder: Path) -> Path:
    path = folder / "garbage.json"
    path.write_text('{"schema": 99}')
    return path


def test_no_latency_is_told_when_requests_fail(server: RunningServer, run: Callable[[Job], Sample]) -> None:
    requests = (Request("POST /v1/models/half:predict", b'{"instances": ["x"]}'),)
    sample = run(Job(server.rest, requests, Shape(clients=2), seconds=0.8, warmup_s=0.05, timeout_s=20))
    assert set(sample.errors) == {"HTTP 400"}
    assert len(sample.latencies_s) == 0
    told = judge(sample, Shape(clients=2))
    assert told.latency_ms is None
    assert told.error_rate == 1.0


def test_a_server_that_is_gone_is_an_error_of_its_kind(run: Callable[[Job], Sample]) -> None:
    requests = (Request("POST /", b""),)
    sample = run(Job(f"http://127.0.0.1:{free_port()}", requests, Shape(clients=1), 0.3, 0.05, 20))
    (kind,) = sample.errors
    assert "refused" in kind.lower() or "connect" in kind.lower()
    sample = run(Job(f"grpc://127.0.0.1:{free_port()}", requests, Shape(clients=1), 0.3, 0.05, 20))
    assert set(sample.errors) == {"gRPC UNAVAILABLE"}


class Stalling:
    """An HTTP server that answers at once, but for one stall."""

    def __init__(self, stall_s: float) -> None:
        self.port = free_port()
        self._stall_s, self._count = stall_s, 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(0.05)  # connections that the client has closed end here too

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self._count += 1
                if self._count == 40:
                    time.sleep(self._stall_s)  # all of the server stands still
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    server = Stalling(stall_s=0.5)
    yield server
    server.stop()


@pytest.mark.slow
def test_an_open_loop_tells_of_the_requests_that_a_stall_kept_waiting(
    stalling: Stalling, run: Callable[[Job], Sample]
) -> None:
    """Coordinated omission: of 200 requests in a second, some 100 fall into the stall of half a second."""
    with StandingStill() as still:
        sample = run(Job(f"http://127.0.0.1:{stalling.port}", (Request("GET /", b""),), Shape(rate=200), 1.5, 0.05, 30))
    assert not sample.errors
    waited = (sample.latencies_s > 0.1).sum()
    assert 40 < waited < 140 + 200 * still.seconds
    assert 0.3 < sample.latencies_s.max() < 0.7 + still.seconds
    assert 210 - 200 * still.seconds < sample.requests < 390


def test_an_answer_that_never_comes_is_counted_and_the_next_one_is_not_taken_for_it(
    run: Callable[[Job], Sample],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        sample = run(Job(url, (Request("GET /", b""),), Shape(clients=2), 0.5, 0.01, timeout_s=0.2))
    assert set(sample.errors) == {"no answer in 0.2 s"}


def judge(sample: Sample, shape: Shape, **changed: float) -> Run:
    return judged(sample, shape, protocol="REST", target="", batch=1, used={}, max_errors=0.01, **changed)


def sample_of(*latencies: float, errors: int = 0, cpu: float = 0.1) -> Sample:
    return Sample(1.0, np.array(latencies), Counter({"HTTP 503": errors} if errors else {}), cpu=cpu)


def test_failed_requests_are_never_part_of_a_latency() -> None:
    told = judge(sample_of(*[0.010] * 99, errors=1), Shape(clients=1))
    assert told.latency_ms is not None
    assert told.latency_ms["p99_9"] == 10.0
    assert (told.requests, told.per_second) == (100, 99.0)
    assert judge(sample_of(*[0.010] * 98, errors=2), Shape(clients=1)).latency_ms is None


def test_a_generator_at_its_limit_is_told() -> None:
    assert judge(sample_of(0.01, cpu=0.95), Shape(clients=1)).client_bound
    late = Sample(1.0, np.array([0.01]), late_s=np.array([0.02]))
    assert judge(late, Shape(rate=10)).client_bound
    assert not judge(sample_of(0.01), Shape(clients=1)).client_bound


@pytest.mark.parametrize(
    ("used", "machine", "client_bound", "expected"),
    [
        ({"server": 1.9}, 2.0, True, "client"),
        ({"server": 1.7}, 1.95, False, "server"),
        ({"server": 0.3, "gateway": 1.5}, 1.95, False, "gateway"),
        ({"server": 0.9, "gateway": 0.7}, 1.95, False, "machine"),
        ({"server": 0.5}, 2.0, False, "machine"),
        ({"server": 0.5}, 0.7, False, "nothing"),
        ({}, 0.7, False, "nothing"),
        ({}, None, False, "unknown"),
    ],
)
def test_who_was_at_the_limit_is_told(
    used: dict[str, float], machine: float | None, client_bound: bool, expected: str
) -> None:
    assert bottleneck(used, machine, 2, client_bound=client_bound) == expected


def test_processor_time_is_of_a_process_and_those_it_started() -> None:
    """As a container's: its first process is an init, which computes nothing."""
    work = "import time; t = time.process_time\nwhile t() < 0.4: pass\nprint(flush=True); time.sleep(60)"
    shell = subprocess.Popen(["sh", "-c", '"$0" -c "$1"; true', sys.executable, work], stdout=subprocess.PIPE)
    try:
        assert shell.stdout
        shell.stdout.readline()
        assert (cpu_seconds(shell.pid) or 0) > 0.3
        assert (machine_cpu_seconds() or 0) > 0.3
    finally:
        for one in psutil.Process(shell.pid).children(recursive=True):
            one.kill()
        shell.communicate()
    assert cpu_seconds(shell.pid) is None
    assert cpu_seconds(None) is None


def test_rounds_are_put_together() -> None:
    both = together([sample_of(0.01, errors=1), sample_of(0.03)])
    assert (both.seconds, both.requests) == (2.0, 3)
    assert both.errors == {"HTTP 503": 1}


def test_a_document_is_read_back_and_compared() -> None:
    slow, fast = judge(sample_of(0.02), Shape(clients=1)), judge(sample_of(0.01), Shape(clients=1))
    assert runs_of(json.loads(json.dumps(document([slow], {})))) == [slow]
    (ratio,) = compared([fast], [slow])
    assert ratio["p50"] == 0.5
    assert list(ratios([fast])) == []


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="generator and server share one core")
def test_the_generator_alone_is_far_from_its_limit_at_the_servers_pace(
    server: RunningServer, run: Callable[[Job], Sample]
) -> None:
    """Cores of the generator for a thousand REST requests a second: a ratio, whatever the machine's speed."""
    requests = (Request("POST /v1/models/half:predict", b'{"instances": [1.0]}'),)
    sample = run(Job(server.rest, requests, Shape(clients=16), seconds=2, warmup_s=0.3, timeout_s=20))
    assert not sample.errors
    assert sample.cpu < 0.6
