"""A model that raises, misshapes, answers NaN or takes its time: only its own requests notice, batched or not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from servekit.protos import messages
from servekit.tensors import to_array, to_proto
from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow

PREDICT = "/tensorflow.serving.PredictionService/Predict"
BATCHING = (
    "max_batch_size { value: 8 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 1000 } "
    "num_batch_threads { value: 6 }"
)
MODELS = ("half_plus_two", "moody")
RAISES, ONE_ROW_MORE, NAN, BUSY, ONE_ROW_FOR_ALL = -1.0, -2.0, -3.0, -4.0, -5.0


@pytest.fixture(scope="module", params=["alone", "batched"])
def server(request: pytest.FixtureRequest, serve: Serve, models: Path) -> RunningServer:
    configs = (f'config {{ name: "{n}" base_path: "{models}/{n}" model_platform: "tensorflow" }}' for n in MODELS)
    flags = ["--model_config_file={work}/models.config", "--rest_api_num_threads=17", "--grpc_max_threads=16"]
    if request.param == "batched":
        flags += ["--enable_batching", "--batching_parameters_file={work}/batching.config"]
    files = {"models.config": f"model_config_list {{ {' '.join(configs)} }}", "batching.config": BATCHING}
    return serve(*flags, files=files)


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """For all threads: a client of one's own costs more than a hundred of these requests."""
    with plain_http.Http(base_url=server.rest, timeout=20) as client:
        yield client


def by_rest(client: httpx.Client, model: str, values: list[float]) -> httpx.Response:
    return client.post(f"/v1/models/{model}:predict", json={"inputs": values})


def by_grpc(channel: grpc.Channel, model: str, values: list[float]) -> dict[str, list[float]]:
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(to_proto(np.array(values, np.float32)))
    answer = messages.PredictResponse.FromString(channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=20))
    return {name: to_array(proto).tolist() for name, proto in answer.outputs.items()}


@pytest.mark.parametrize("mood", [RAISES, ONE_ROW_MORE, NAN, ONE_ROW_FOR_ALL])
def test_each_mood_is_answered_and_the_next_request_is_answered_well(
    server: RunningServer, client: httpx.Client, channel: grpc.Channel, mood: float
) -> None:
    answer = by_rest(client, "moody", [mood, 2.0])
    batched = "--enable_batching" in str(server.process.args)
    if mood == RAISES:
        assert (answer.status_code, "the model raises" in answer.text) == (400, True)
    elif mood == NAN:
        assert (answer.status_code, answer.text.count("NaN")) == (200, 4)
    elif batched:
        assert (answer.status_code, "0th dimension does not equal" in answer.text) == (400, True)
    else:
        assert answer.status_code == 200  # nobody else's rows could be meant
        rows = [len(values) for values in answer.json()["outputs"].values()]
        assert sorted(rows) == sorted([2, 3] if mood == ONE_ROW_MORE else [1, 2])
    assert by_rest(client, "moody", [7.0]).json() == {"outputs": {"y": [7.0], "z": [7.0]}}
    assert by_grpc(channel, "moody", [7.0, 8.0]) == {"y": [7.0, 8.0], "z": [7.0, 8.0]}


def test_requests_to_other_models_do_not_notice(
    server: RunningServer, client: httpx.Client, channel: grpc.Channel
) -> None:
    over = threading.Event()
    seen: list[int] = []

    def misbehave(mood: float) -> None:
        while not over.is_set():
            seen.append(by_rest(client, "moody", [mood, 1.0]).status_code)
            with contextlib.suppress(grpc.RpcError):
                by_grpc(channel, "moody", [mood])

    with ThreadPoolExecutor(6) as pool, StandingStill() as still:
        troubles = [pool.submit(misbehave, mood) for mood in (RAISES, ONE_ROW_MORE, NAN, BUSY, ONE_ROW_FOR_ALL)]
        try:
            slowest = 0.0
            for number in range(50):
                began = time.monotonic()
                assert by_rest(client, "half_plus_two", [float(number)]).json() == {"outputs": [number / 2 + 3]}
                assert by_grpc(channel, "half_plus_two", [float(number)]) == {"y": [number / 2 + 3]}
                slowest = max(slowest, time.monotonic() - began)
        finally:
            over.set()
        for trouble in troubles:
            trouble.result()
    assert {200, 400} <= set(seen)
    assert slowest < 3 + still.seconds
    assert server.process.poll() is None
    assert "Traceback" not in server.log_text()


def test_rows_of_one_batch_share_its_error_and_nothing_else(client: httpx.Client) -> None:
    """As upstream: who was in the batch of a row that raises is refused too, and is well the next time."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            answers = list(pool.map(lambda value: by_rest(client, "moody", [value]), [RAISES, *range(1, 8)]))
            assert answers[0].status_code == 400
            for value, answer in enumerate(answers[1:], 1):
                if answer.status_code == 200:
                    assert answer.json() == {"outputs": {"y": [float(value)], "z": [float(value)]}}
                else:
                    assert "the model raises" in answer.text
    assert by_rest(client, "moody", [3.0]).json() == {"outputs": {"y": [3.0], "z": [3.0]}}
