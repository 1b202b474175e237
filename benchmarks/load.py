"""Servers to measure, and load from generators in C, which leave the processors to the server: wrk and h2load."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_S = 120
MARGIN_S = 1
"""Load before and after what is measured."""

METRICS = "/monitoring/prometheus/metrics"


@dataclass(frozen=True, slots=True)
class Load:
    """`answered` and the latencies are the generator's, `per_second` by the server's own count while the load lasted.

    A generator's own rate leaves out what is on its way when it stops, which matters where an answer takes long.
    """

    answered: int
    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Server:
    """A running `servekit serve` on 127.0.0.1 with metrics on."""

    process: subprocess.Popen[bytes] | subprocess.Popen[str]
    grpc_port: int
    rest_port: int

    def ok_count(self, model: str) -> int:
        """Requests that the server itself counts as answered well, by either protocol."""
        return self._counts(model).get("OK", 0)

    def failed_count(self, model: str) -> int:
        return sum(count for status, count in self._counts(model).items() if status != "OK")

    def _counts(self, model: str) -> dict[str, int]:
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.rest_port}{METRICS}", timeout=10).read().decode()
        found = re.findall(
            rf'^:tensorflow:serving:request_count{{model_name="{model}",status="(\w+)"}} (\d+)', page, re.M
        )
        return {status: int(count) for status, count in found}

    def rss_kib(self) -> int:
        return rss_kib(self.process.pid)


@contextlib.contextmanager
def serving(model: str, base_path: Path, work: Path, *flags: str) -> Iterator[Server]:
    """Starts a server for one model, waits until it answers, ends it. Exits with its log when it does not start."""
    monitoring, log = work / "monitoring.config", work / "server.log"
    monitoring.write_text("prometheus_config { enable: true }")
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "servekit", "serve", f"--model_name={model}", f"--model_base_path={base_path}"]
    command += [f"--port={ports[0]}", f"--rest_api_port={ports[1]}", f"--monitoring_config_file={monitoring}", *flags]
    with log.open("wb") as out:
        environment = {**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + START_S
        while not _accepts(ports[1]):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        yield Server(process, *ports)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def missing_tools() -> list[str]:
    """What to install before load can be made."""
    packages = {"wrk": "wrk", "h2load": "nghttp2-client"}
    return [package for tool, package in packages.items() if shutil.which(tool) is None]


def rest_load(server: Server, model: str, body: bytes, *, clients: int, seconds: int, work: Path) -> Load:
    """POSTs `body` to the model's :predict over `clients` connections with wrk."""
    script, content = work / "post.lua", work / "body.json"
    content.write_bytes(body)
    done = (
        'done = function(summary, latency) io.write(string.format("{\\"p50\\":%d,\\"p99\\":%d,\\"requests\\":%d,'
        '\\"errors\\":%d,\\"duration\\":%d}\\n", latency:percentile(50), latency:percentile(99), summary.requests, '
        "summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout, "
        "summary.duration)) end"
    )
    script.write_text(f'wrk.method = "POST"\nwrk.body = io.open("{content}", "rb"):read("*a")\n{done}\n')
    command = wrk(server, model, script, clients=clients, seconds=seconds + 2 * MARGIN_S)
    per_second, output = _under_load(command, lambda: server.ok_count(model), seconds)
    summary = json.loads(output.splitlines()[-1])
    if summary["errors"]:
        sys.exit(f"{summary['errors']} REST requests failed:\n{output}")
    return Load(summary["requests"], per_second, summary["p50"] / 1e3, summary["p99"] / 1e3)


def grpc_load(server: Server, model: str, message: bytes, *, clients: int, seconds: int, work: Path) -> Load:
    """Sends a PredictRequest over `clients` HTTP/2 connections, one call at a time each, with h2load."""
    log = work / "h2load.log"
    log.unlink(missing_ok=True)
    command = h2load(server, message, work, clients=clients, seconds=seconds + 2 * MARGIN_S)
    command.insert(1, f"--log-file={log}")
    per_second, output = _under_load(command, lambda: server.ok_count(model), seconds)
    answered = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", output)
    if answered is None:
        sys.exit(f"gRPC calls failed:\n{output}")
    micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return Load(int(answered[1]), per_second, percentile_ms(micros, 50), percentile_ms(micros, 99))


def wrk(server: Server, model: str, script: Path, *, clients: int, seconds: int) -> list[str]:
    """Its command for what `script` sends to the model's :predict."""
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict"
    return ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=30s", f"-s{script}", url]


def h2load(server: Server, message: bytes, work: Path, *, clients: int, seconds: int) -> list[str]:
    """Its command for a PredictRequest."""
    frame = work / "request.grpc"
    frame.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    url = f"http://127.0.0.1:{server.grpc_port}/tensorflow.serving.PredictionService/Predict"
    command = ["h2load", f"-c{clients}", "-m1", "-t1", f"-D{seconds}", f"-d{frame}"]
    return [*command, "-Hcontent-type: application/grpc", "-Hte: trailers", url]


def rate(count: Callable[[], int], seconds: float) -> float:
    """By how much `count` grows in a second, looked at from one margin after now until `seconds` later."""
    time.sleep(MARGIN_S)
    before, began = count(), time.monotonic()
    time.sleep(seconds)
    after = count()
    return (after - before) / (time.monotonic() - began)


def percentile_ms(sorted_micros: Sequence[int], percent: int) -> float:
    return sorted_micros[min(len(sorted_micros) * percent // 100, len(sorted_micros) - 1)] / 1e3


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def free_port() -> int:
    """Below the range of outgoing connections' ports."""
    while True:
        port = random.randint(12_000, 19_999)  # noqa: S311
        if not _accepts(port):
            return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _under_load(command: list[str], count: Callable[[], int], seconds: int) -> tuple[float, str]:
    """The rate while the generator runs, and what it prints in the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
        per_second = rate(count, seconds)
        output, _ = generator.communicate(timeout=60)
    if generator.returncode:
        sys.exit(f"{command[0]} failed:\n{output}")
    return per_second, output
