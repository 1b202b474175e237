"""A real server for every test that wants one: `serve("--flag=value", ..., files={...})`."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

from servekit.client import Client
from servekit.engine.preflight import binding_problem
from servekit.errors import Code, StatusError

if TYPE_CHECKING:
    from tests.up_home import Home

ROOT = Path(__file__).parent.parent

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background job: what it starts would inherit that, and outlive every Ctrl-C of a test.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "CI" not in os.environ:  # there Hypothesis has a profile of its own, which does the same and draws no new examples
    # A machine that stands still for a moment is no finding.
    hypothesis.settings.register_profile(
        "no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("no clock")


LONGEST = (
    "compose/test_stack.py", "canary/test_demo.py", "canary/test_rollout.py", "test_readme.py",
    "compose/test_canaries.py", "canary/test_while_loading.py", "cli/test_up_down_status.py",
    "cli/test_predict_folder.py", "tune/test_tune.py", "rollout/test_apply.py", "gateway/test_engine.py",
    "compose/test_doctor.py", "server/test_lifecycle.py", "export/",
)  # fmt: skip
"""Files, or folders of them, of half a minute and more. They begin: what is long and comes last, one of two test
processes does alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        beginnings = (path.startswith(f"{ROOT}/tests/{beginning}") for beginning in LONGEST)
        return next((place for place, begins in enumerate(beginnings) if begins), len(LONGEST))

    items.sort(key=place)


SERVER = shlex.split(os.environ.get("SERVEKIT_TEST_SERVER", "")) or [sys.executable, "-m", "servekit", "serve"]
"""A `tensorflow_model_server` may take the embedded server's place, to see that it answers the same."""


@dataclass(frozen=True)
class RunningServer:
    """A process of SERVER. `work` holds the files that were given to `serve`."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    work: Path
    log: Path

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_listening(self, seconds: float) -> None:
        """Returns when both ports accept; fails with the log when the server ended or time is up."""
        deadline = time.monotonic() + seconds
        for port in (self.grpc_port, self.rest_port):
            while not _accepts(port):
                ended = self.process.poll()
                if ended is not None or time.monotonic() > deadline:
                    what = f"ended with {ended}" if ended is not None else f"not listening after {seconds:.0f} s"
                    self.stop()
                    pytest.fail(f"server {what}; its log:\n{self.log_text()}", pytrace=False)
                time.sleep(0.05)

    def wait_until_settled(self, names: list[str], seconds: float = 30) -> None:
        """The ports open with the first version of a model; waits for the others, but not for those that hang.

        Over gRPC, whose status calls are in no metric.
        """
        deadline = time.monotonic() + seconds
        with Client(f"grpc://{self.grpc}") as client:
            for name in names:
                while not _is_settled(client, name) and time.monotonic() < deadline:
                    time.sleep(0.05)

    def wait_for_log(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log_text():
            if time.monotonic() > deadline:
                pytest.fail(f"no {text!r} in the log after {seconds:.0f} s:\n{self.log_text()}", pytrace=False)
            time.sleep(0.05)

    def stop(self, sign: signal.Signals = signal.SIGTERM, seconds: float = 20) -> int:
        """Ends the server (and, if it will not end, its whole process group) and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode


Serve = Callable[..., RunningServer]


_reserved: deque[socket.socket] = deque()


def free_port() -> int:
    """Below the range from which the system takes the ports of outgoing connections: nobody else grabs it meanwhile.

    Nor does another test process, before the server that is to listen there does: its number is held as a UDP port,
    which is no TCP port's business.
    """
    for _ in range(200):
        port = random.randint(12_000, 19_999)
        hold = socket.socket(type=socket.SOCK_DGRAM)
        try:
            hold.bind(("127.0.0.1", port))
        except OSError:
            hold.close()
            continue
        if not _reserved:
            atexit.register(_let_go)
        _reserved.append(hold)
        if len(_reserved) > 100:  # the servers of earlier ones listen, or have ended
            _reserved.popleft().close()
        if binding_problem("127.0.0.1", port) is None:
            return port
    raise RuntimeError("no free port between 12000 and 19999")


def _let_go() -> None:
    for hold in _reserved:
        hold.close()


@pytest.fixture(scope="session")
def models() -> Path:
    """The small SavedModels of the tests: `models / NAME / VERSION`."""
    return ROOT / "tests" / "models"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A bundle for `up`; nothing that was started in it outlives the test."""
    from tests.up_home import Home

    home = Home(tmp_path)
    yield home
    for left in home.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    for process in home.started:
        process.communicate()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers; all of a module's are ended after it, whatever happened.

    serve(*flags, files={"models.config": text}, ready=True): `{work}` in flags and texts is the folder of the files.
    With ready=False it does not wait for the ports.
    """
    running: list[RunningServer] = []

    def start(
        *flags: str, files: Mapping[str, str] | None = None, ready: bool = True, start_s: float = 90
    ) -> RunningServer:
        work = tmp_path_factory.mktemp("server")
        for name, text in (files or {}).items():
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("{work}", str(work)))
        grpc_port, rest_port = free_port(), free_port()
        log = work / "server.log"
        command = [*SERVER, f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
        command += [flag.replace("{work}", str(work)) for flag in flags]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"},
            )
        server = RunningServer(process, grpc_port, rest_port, work, log)
        running.append(server)
        if ready:
            server.wait_until_listening(start_s)
            server.wait_until_settled(_names([*flags, *(files or {}).values()]))
        return server

    try:
        yield start
    finally:
        for server in running:
            server.stop(seconds=12)


def _names(texts: list[str]) -> list[str]:
    """Models that flags and config files name."""
    return [match[1] for match in re.finditer(r'(?:--model_name=|\bname: ")([\w.-]+)', "\n".join(texts))]


def _is_settled(client: Client, name: str) -> bool:
    try:
        return all(version.state in ("AVAILABLE", "END") for version in client.status(name, timeout_s=2).versions)
    except StatusError as error:
        return error.code is not Code.DEADLINE_EXCEEDED


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
