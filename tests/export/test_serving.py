"""Exported models behind the embedded server with batching on, asked over REST and gRPC."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from servekit.client import Client, ModelSpec
from tests.conftest import RunningServer, Serve
from tests.export.bundles import ROOT, Exported, servekit

pytestmark = pytest.mark.slow

SAMPLES = ROOT / "export" / "samples"
CATS = {b"tiger cat", b"Egyptian cat", b"tabby"}
# Batches wait 50 ms, so that requests sent together are run together.
BATCHING = """
max_batch_size { value: 32 }
batch_timeout_micros { value: 50000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
"""


@pytest.fixture(scope="module")
def server(serve: Serve, exported: Exported) -> RunningServer:
    done = servekit(exported.bundle, "export", "half_plus_two", "--version", "123")
    assert done.returncode == 0, done.stderr
    configs = "".join(
        f"config {{ name: '{name}' base_path: '{exported.bundle.models / name}' model_platform: 'tensorflow' }}\n"
        for name in ("imagenet", "half_plus_two")
    )
    return serve(
        "--model_config_file={work}/models.config",
        "--enable_batching=true",
        "--batching_parameters_file={work}/batching.config",
        files={"batching.config": BATCHING, "models.config": f"model_config_list {{\n{configs}}}\n"},
    )


@pytest.fixture(params=["REST", "gRPC"])
def url(server: RunningServer, request: pytest.FixtureRequest) -> str:
    return server.rest if request.param == "REST" else f"grpc://{server.grpc}"


def test_good_requests_keep_their_answers_beside_broken_ones_in_the_same_batch(url: str) -> None:
    good = (SAMPLES / "chelsea.png").read_bytes()
    sent = [good, b"garbage", good, b"", good[:5000], good, np.random.default_rng(0).bytes(2_000_000), good]
    with Client(url) as client, ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda data: client.predict("imagenet", {"image_bytes": [data]}).outputs, sent))
    assert [bool(answer["valid"][0]) for answer in answers] == [data is good for data in sent]
    assert all(set(answer["labels"][0][:3]) == CATS for answer, data in zip(answers, sent, strict=True) if data is good)


def test_one_request_may_hold_good_and_broken_images(url: str) -> None:
    good = (SAMPLES / "chelsea.jpg").read_bytes()
    with Client(url) as client:
        answer = client.predict("imagenet", {"image_bytes": [good, b"garbage", good]}).outputs
    assert answer["valid"].tolist() == [True, False, True]
    assert answer["class_ids"][1].tolist() == [-1] * 5


def test_the_other_signatures_answer_too(url: str) -> None:
    photo = (SAMPLES / "chelsea.webp").read_bytes()
    with Client(url) as client:
        spec = ModelSpec("imagenet", signature_name="serving_base64url")
        answer = client.predict(spec, {"image_base64url": [base64.urlsafe_b64encode(photo)]}).outputs
        assert set(answer["labels"][0][:3]) == CATS
        spec = ModelSpec("imagenet", signature_name="tensor")
        images = np.zeros((2, 224, 224, 3), np.float32)
        assert client.predict(spec, {"images": images}).outputs["logits"].shape == (2, 1000)


def test_classify_answers_over_grpc(server: RunningServer) -> None:
    photo = (SAMPLES / "chelsea.png").read_bytes()
    with Client(f"grpc://{server.grpc}") as client:
        spec = ModelSpec("imagenet", signature_name="classify")
        (classes,) = client.classify(spec, [{"image/encoded": photo}])
    assert {one.label.encode() for one in classes[:3]} == CATS


def test_half_plus_two_answers_all_three_methods(url: str) -> None:
    with Client(url) as client:
        answer = client.predict("half_plus_two", {"x": np.array([1.0, 2.0, 5.0], np.float32)}).outputs
        assert answer["y"].tolist() == [2.5, 3.0, 4.5]
        spec = ModelSpec("half_plus_two", signature_name="classify_x_to_y")
        assert [[one.score for one in classes] for classes in client.classify(spec, [{"x": 2.0}])] == [[3.0]]
        spec = ModelSpec("half_plus_two", signature_name="regress_x_to_y2")
        assert client.regress(spec, [{"x": 2.0}, {"x": 0.0}]) == [4.0, 3.0]
        spec = ModelSpec("half_plus_two", signature_name="regress_x2_to_y3")
        assert client.regress(spec, [{"x2": 2.0}]) == [4.0]
