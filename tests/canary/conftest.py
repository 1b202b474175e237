"""A bundle with a real server, a real gateway in front of it, and clients that never stop asking."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.client import Client, ModelSpec
from servekit.config.bundle import render_bundle
from servekit.config.flags import server_flags
from servekit.config.load import load
from servekit.errors import StatusError
from servekit.gateway import program
from servekit.gateway.address import Address, Socket
from servekit.gateway.answers import served_generation
from servekit.gateway.bootstrap import Places, bootstrap_text
from servekit.gateway.files import read_splits, write_routes
from servekit.gateway.splits import Split, desired_splits, generation
from servekit.paths import Bundle
from servekit.rollout.at_work import only_one
from servekit.rollout.controller import Controller, Settings
from servekit.rollout.history import Event
from servekit.rollout.watch import desired
from tests.conftest import ROOT, RunningServer, free_port

MODEL = "half"
ANSWERS = {2.5: 1, 3.5: 2, 1.0: 5}
"""What versions 1 and 2 say to 1.0, and what a version that answers its input; 3 is a copy of 2, 4 is garbage."""
ONE = "{specific: [1]}", "{stable: 1}"


class Stack:
    """`half` with versions 1 to 4 on disk, a server, and Envoy in front of it."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root, self.bundle = root, Bundle(root)
        (root / "config").mkdir()
        shutil.copytree(ROOT / "config" / "templates", root / "config" / "templates")
        for version in (1, 2, 3):
            shutil.copytree(models / "half_plus_two" / str(min(version, 2)), root / "models" / MODEL / str(version))
        (root / "models" / MODEL / "4").mkdir()
        (root / "models" / MODEL / "4" / "saved_model.pb").write_bytes(b"no protobuf")
        self.ports = [free_port() for _ in range(5)]
        self.steps: list[str] = []
        self.write(*ONE)
        render_bundle(self.bundle)
        write_routes(self.bundle, self.serving(), desired_splits(self.serving()), container=False)
        self.server = self._start_server()
        self.gateway = self._start_gateway()
        self.server.wait_until_listening(90)

    @property
    def yaml(self) -> Path:
        return self.bundle.serving_yaml

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[4]}"

    @property
    def reach(self) -> list[str]:
        """Options that tell commands where server and gateway are."""
        return ["--url", f"grpc://127.0.0.1:{self.ports[0]}", "--gateway-url", self.gateway_url]

    def write(self, versions: str, labels: str, canary: str = "") -> None:
        """As a person does by hand."""
        section = f"    canary: {canary}\n" if canary else ""
        text = f"# mine\nmodels:\n  {MODEL}:\n    versions: {versions}\n    labels: {labels}\n{section}"
        text += "server: {max_num_load_retries: 0}\n"
        staged = self.root / "config" / "new"
        staged.write_text(text)
        staged.replace(self.yaml)

    def serving(self) -> Any:
        return load(self.yaml)

    def env(self) -> dict[str, str]:
        return os.environ | {"SERVEKIT_HOME": str(self.root), "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "servekit", *arguments],
            env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=150)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def apply(self) -> subprocess.CompletedProcess[str]:
        return self.run("apply", *self.reach)

    def converge(self) -> bool:
        """As `apply`, without a process of its own; `steps` are those that it took."""
        self.steps = []

        def listen(event: Event) -> None:
            if event.result == "done":
                self.steps.append(event.step)

        with Client(f"grpc://127.0.0.1:{self.ports[0]}") as client, only_one(self.bundle):
            controller = Controller(
                self.bundle, client, listen, Settings(gateway_url=self.gateway_url, drain_s=0.5)
            )  # fmt: skip
            return not controller.converge(desired(self.bundle))

    def canary(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("canary", *arguments)

    def history(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / ".servekit" / "rollout.json").read_text())
        return document

    def labels(self) -> dict[str, int]:
        """As the server answers."""
        result = {}
        with Client(f"grpc://127.0.0.1:{self.ports[0]}") as client:
            for label in ("stable", "canary"):
                try:
                    result[label] = client.metadata(ModelSpec(MODEL, version_label=label)).version
                except StatusError:
                    continue
        return result

    def available(self) -> set[int]:
        with Client(f"grpc://127.0.0.1:{self.ports[0]}") as client:
            return {one.version for one in client.status(MODEL).versions if one.state == "AVAILABLE"}

    def split(self) -> Split | None:
        """As written; None while the gateway does not serve it yet, any of its threads: each may be the one to tell."""
        for _ in range(20):
            splits = read_splits(self.bundle, container=False)
            if served_generation(self.gateway_url, 2) == generation(splits, self.serving()):
                return splits.get(MODEL)
            time.sleep(0.05)
        return None

    def restart_server(self) -> None:
        self.server.stop()
        self.server = self._start_server()
        self.server.wait_until_listening(90)

    def kill_gateway(self) -> None:
        self.gateway.send_signal(signal.SIGKILL)
        self.gateway.wait()

    def restart_gateway(self) -> None:
        self.gateway = self._start_gateway()
        deadline = time.monotonic() + 60
        while served_generation(self.gateway_url, 1) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        self.gateway.terminate()
        self.gateway.wait(30)
        self.server.stop()

    def _start_server(self) -> RunningServer:
        grpc_port, rest_port = self.ports[:2]
        flags = server_flags(
            self.serving(), rendered=self.bundle.rendered, port=grpc_port, rest_api_port=rest_port
        )  # fmt: skip
        log = self.root / "server.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "servekit", "serve", *flags], cwd=ROOT, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"},
            )  # fmt: skip
        return RunningServer(process, grpc_port, rest_port, self.root, log)

    def _start_gateway(self) -> subprocess.Popen[bytes]:
        folder = self.root / "envoy"
        folder.mkdir(exist_ok=True)
        addresses = [Address("127.0.0.1", port) for port in self.ports]
        places = Places(
            grpc=addresses[2], rest=addresses[3], metrics=addresses[4], server_grpc=addresses[0],
            server_rest=addresses[1], routes=self.bundle.rendered / "gateway" / "routes.yaml",
            admin=Socket("admin.sock"),
        )  # fmt: skip
        (folder / "envoy.yaml").write_text(bootstrap_text(self.serving(), places))
        envoy = program.find()
        assert envoy is not None
        with (folder / "envoy.log").open("ab") as out:
            return subprocess.Popen(program.command(envoy, 2), cwd=folder, stdout=out, stderr=out)


class Clients:
    """Unlabelled requests over REST and gRPC, without end; `errors` and how often each version answered."""

    def __init__(self, urls: list[str]) -> None:
        self.errors: list[str] = []
        self.versions: Counter[int] = Counter()
        self._asked = dict.fromkeys(urls, 0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for url in urls]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str) -> None:
        with Client(url) as client:
            while not self._stop.is_set():
                try:
                    answer = client.predict(ModelSpec(MODEL), [1.0])
                    self.versions[ANSWERS[float(next(iter(answer.outputs.values()))[0])]] += 1
                except StatusError as error:
                    self.errors.append(f"{url}: {error}")
                self._asked[url] += 1
                time.sleep(0.03)

    def count_anew(self) -> None:
        """Without the answers to what was asked before."""
        before = self._asked.copy()
        wait_until(lambda: all(asked >= before[url] + 2 for url, asked in self._asked.items()))
        self.versions.clear()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("bundle"), models)
    yield stack
    stack.stop()


@pytest.fixture
def clients(stack: Stack) -> Iterator[Clients]:
    clients = Clients([f"http://127.0.0.1:{stack.ports[3]}", f"grpc://127.0.0.1:{stack.ports[2]}"])
    yield clients
    clients.stop()


def wait_until(true: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
