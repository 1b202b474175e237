"""A real Envoy in front of a real server of half_plus_two, on free ports."""

from __future__ import annotations

import math
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from servekit.config.serving import Serving
from servekit.gateway import program
from servekit.gateway.address import Address, Socket
from servekit.gateway.answers import metrics_text, served_generation
from servekit.gateway.bootstrap import Places, bootstrap_text
from servekit.gateway.counters import Counts, Traffic, parse
from servekit.gateway.files import routes_text
from servekit.gateway.splits import Split, generation
from servekit.protos import messages
from servekit.tensors import to_array, to_proto
from tests import plain_http
from tests.conftest import RunningServer, Serve, free_port

MODEL = "half_plus_two"
PREDICTION = "tensorflow.serving.PredictionService"
ANSWERS = {2.5: "stable", 3.5: "canary"}
"""What versions 1 and 2 say to 1.0."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Metadata = tuple[tuple[str, str], ...]


class Gateway:
    """One Envoy; its routes can be written again while it runs."""

    def __init__(self, folder: Path, server_grpc: int, server_rest: int, **settings: Any) -> None:
        self.folder = folder
        self.serving = Serving.model_validate(
            {"models": {MODEL: {"versions": "all", "labels": {"stable": 1, "canary": 2}}}, "gateway": settings}
        )
        self.grpc_port, self.rest_port, self.metrics_port = free_port(), free_port(), free_port()
        self.rest = f"http://127.0.0.1:{self.rest_port}"
        self.metrics = f"http://127.0.0.1:{self.metrics_port}"
        (folder / "routes").mkdir(parents=True)
        self.routes = folder / "routes" / "routes.yaml"
        places = Places(
            grpc=Address("127.0.0.1", self.grpc_port),
            rest=Address("127.0.0.1", self.rest_port),
            metrics=Address("127.0.0.1", self.metrics_port),
            server_grpc=Address("127.0.0.1", server_grpc),
            server_rest=Address("127.0.0.1", server_rest),
            routes=self.routes,
            admin=Socket("admin.sock"),
        )
        (folder / "envoy.yaml").write_text(bootstrap_text(self.serving, places))
        self.write(Split())
        envoy = program.find()
        assert envoy is not None
        self.log = folder / "envoy.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(program.command(envoy, 2), cwd=folder, stdout=out, stderr=out)
        self.wait_until_served()
        self.http = plain_http.Http(base_url=self.rest, timeout=20)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=UNLIMITED)

    def write(self, split: Split | None) -> None:
        """Renames a new route file into place; the model is not split without one."""
        self.splits = {} if split is None else {MODEL: split}
        staged = self.folder / "routes" / ".new"
        staged.write_text(routes_text(self.splits, self.serving))
        staged.replace(self.routes)

    def set(self, split: Split | None) -> None:
        self.write(split)
        self.wait_until_served()

    def wait_until_served(self, seconds: float = 60) -> None:
        """By each of its two threads: one of them, at random, accepts a connection and tells what it serves."""
        wanted, deadline = generation(self.splits, self.serving), time.monotonic() + seconds
        in_a_row = 0
        while in_a_row < 16:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            if served_generation(self.metrics, 5) == wanted:
                in_a_row += 1
            else:
                in_a_row = 0
                time.sleep(0.02)

    def wait_until_timed(self, seconds: float = 20) -> None:
        """Until every request that was counted is in a histogram too: Envoy puts them there once a second."""
        deadline = time.monotonic() + seconds
        while not all(is_timed(one) for both in self.counts().values() for one in (both.clients, both.copied)):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def counts(self) -> dict[tuple[str, str], Counts]:
        text = metrics_text(self.metrics, 5)
        assert text is not None
        return parse(text)

    def predict(self, rest_of_path: str = "", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        content = body or {"json": {"instances": [1.0]}}
        return self.http.post(f"/v1/models/{MODEL}{rest_of_path}:predict", headers=headers, **content)

    def call(self, method: str, request: Any, response: Any, metadata: Metadata = (), **options: Any) -> Any:
        """(answer, trailers and headers). `method` may name its service."""
        path = f"/{method}" if "/" in method else f"/{PREDICTION}/{method}"
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answer, call = self.channel.unary_unary(path, response_deserializer=response.FromString).with_call(
            data, metadata=metadata, timeout=20, **options
        )
        return answer, dict(call.initial_metadata())

    def grpc_predict(self, request: Any | None = None, metadata: Metadata = (), **options: Any) -> str:
        """Which label's version answered."""
        request = predict_request() if request is None else request
        answer, _ = self.call("Predict", request, messages.PredictResponse, metadata, **options)
        return ANSWERS[float(to_array(answer.outputs["y"])[0])]

    def rest_predict(self, headers: dict[str, str] | None = None) -> str:
        return ANSWERS[self.predict(headers=headers).raise_for_status().json()["predictions"][0]]

    def stop(self) -> None:
        self.channel.close()
        self.http.close()
        self.process.terminate()
        self.process.wait(30)


def is_timed(traffic: Traffic) -> bool:
    return traffic.total == traffic.buckets.get(math.inf, 0)


def predict_request(*x: float, label: str | None = None, version: int | None = None) -> Any:
    request = messages.PredictRequest()
    request.model_spec.name = MODEL
    if label is not None:
        request.model_spec.version_label = label
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["x"].CopyFrom(to_proto(np.array(x or [1.0], np.float32)))
    return request


def tally(ask: Callable[[], str], count: int) -> Counter[str]:
    return Counter(ask() for _ in range(count))


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    """Both versions of half_plus_two, with labels and batching."""
    config = f"""model_config_list {{ config {{
        name: "{MODEL}" base_path: "{models}/{MODEL}" model_platform: "tensorflow"
        model_version_policy {{ all {{}} }}
        version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 2 }} }} }}"""
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        "--batching_parameters_file={work}/batching.config",
        files={"models.config": config, "batching.config": "max_batch_size { value: 16000000 }"},
    )


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"), server.grpc_port, server.rest_port)
    yield running
    running.stop()
