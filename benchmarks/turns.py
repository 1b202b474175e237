"""Ways of asking one server that take turns of half a second: what else the machine does then hits all of them alike.

The load generators run all the time and are stopped (SIGSTOP) between their turns; the loop inside the server's process
waits for an event.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.load import ROOT, START_S, Server, free_port

SETTLE_S = 0.25
"""From a side's start to its measurement, and for its last requests to end."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Runs of the session a second, and processor time of each run in ms: the server's process and the generator's."""

    per_second: float
    server_ms: float
    generator_ms: float


class Side(Protocol):
    def go(self) -> None: ...

    def stop(self) -> None: ...

    def cpu_s(self) -> float:
        """Processor time used so far outside the server's process."""


class ServerWithLoop:
    """See benchmarks.session_in_server."""

    def __init__(self, process: subprocess.Popen[str], server: Server) -> None:
        self.server = server
        self._process = process

    def go(self, threads: int) -> None:
        """So many threads begin to call the session in a loop."""
        self._say(f"go {threads}")

    def stop(self) -> None:
        self._say("stop")

    def count(self) -> tuple[float, float]:
        """Runs of the session, processor time in seconds."""
        self._say("count")
        assert self._process.stdout is not None
        runs, seconds = self._process.stdout.readline().split()
        return float(runs), float(seconds)

    def _say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()


@dataclass(frozen=True, slots=True)
class Loop:
    """The session called in a loop by so many threads of the server's process."""

    server: ServerWithLoop
    threads: int

    def go(self) -> None:
        self.server.go(self.threads)

    def stop(self) -> None:
        self.server.stop()

    def cpu_s(self) -> float:
        return 0.0


class Generator:
    """A load generator that is stopped and continued. It has made its connections when it is constructed."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(1)
        self.stop()

    def go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process.poll() is not None:
            sys.exit(f"the load generator ended with {self._process.returncode}")
        self._process.send_signal(signal.SIGSTOP)

    def cpu_s(self) -> float:
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def serving_with_loop(base_path: Path, photo: Path, work: Path, *flags: str) -> Iterator[ServerWithLoop]:
    """Starts it and waits until it serves. Exits with its log when it does not start."""
    monitoring, log = work / "monitoring.config", work / "server.log"
    monitoring.write_text("prometheus_config { enable: true }")
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "benchmarks.session_in_server", str(photo), "--model_name=imagenet"]
    command += [f"--model_base_path={base_path}", f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    command += [f"--monitoring_config_file={monitoring}", *flags]
    environment = {**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            process.kill()
            sys.exit(f"the server did not start:\n{log.read_text(errors='replace')}")
        try:
            yield ServerWithLoop(process, Server(process, *ports))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(START_S)


def take_turns(server: ServerWithLoop, sides: dict[str, Side], seconds: float, rounds: int) -> list[dict[str, Turn]]:
    """One turn each in every round, in an order that is reversed from round to round."""
    results = []
    for number in range(rounds):
        turns: dict[str, Turn] = {}
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            turns[name] = _turn(server.count, sides[name], seconds)
        results.append(turns)
    return results


def _turn(count: Callable[[], tuple[float, float]], side: Side, seconds: float) -> Turn:
    side.go()
    time.sleep(SETTLE_S)
    (runs, cpu), generator, began = count(), side.cpu_s(), time.monotonic()
    time.sleep(seconds)
    (runs_after, cpu_after), took = count(), time.monotonic() - began
    generator = side.cpu_s() - generator
    side.stop()
    time.sleep(SETTLE_S)
    done = max(runs_after - runs, 1.0)
    return Turn(done / took, (cpu_after - cpu) / done * 1e3, generator / done * 1e3)


def stolen_s() -> float:
    """Processor time that this machine's host gave to others, so far (Linux, virtual machines)."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
