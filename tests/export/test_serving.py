"""Exported models behind the embedded server with batching on, asked over REST and gRPC."""

from __future__ import annotations

import base64
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from servekit.client import Client, ModelSpec
from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.export.bundles import Exported, servekit
from tests.export.pictures import bombs, broken, noise_of_100_mb, photo

pytestmark = pytest.mark.slow

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
        "--grpc_max_threads=64",  # TF Serving's own limit, 4 a core, refuses some of the calls below
        files={"batching.config": BATCHING, "models.config": f"model_config_list {{\n{configs}}}\n"},
    )


@pytest.fixture(params=["REST", "gRPC"])
def url(server: RunningServer, request: pytest.FixtureRequest) -> str:
    return server.rest if request.param == "REST" else f"grpc://{server.grpc}"


def test_other_clients_keep_their_answers_beside_every_kind_of_broken_image(server: RunningServer, url: str) -> None:
    """All at once: in between, other clients send good photographs over both protocols into the same batches."""
    good = photo()
    bad = [*broken().values(), *bombs().values()]
    with Client(server.rest) as rest, Client(f"grpc://{server.grpc}") as grpc, Client(url) as client:
        calls = [call for index, data in enumerate(bad) for call in ((client, data), ((rest, grpc)[index % 2], good))]
        before = batches(server)
        with ThreadPoolExecutor(len(calls)) as pool:
            answers = list(pool.map(lambda call: call[0].predict("imagenet", {"image_bytes": [call[1]]}), calls))
    kinds = [*broken(), *bombs()]
    for kind, broken_one, good_one in zip(kinds, answers[::2], answers[1::2], strict=True):
        assert broken_one.outputs["valid"].tolist() == [False], kind
        assert broken_one.outputs["class_ids"].tolist() == [[-1] * 5], kind
        assert good_one.outputs["valid"].tolist() == [True], kind
        assert set(good_one.outputs["labels"][0][:3]) == CATS, kind
    assert batches(server) - before <= len(calls) / 4, "they were not merged, so that nothing was shown"


def test_good_images_of_a_clients_own_batch_are_answered_beside_broken_ones(url: str) -> None:
    bad = {**broken(), **bombs()}
    with Client(url) as client:
        answer = client.predict("imagenet", {"image_bytes": [photo("chelsea.jpg"), *bad.values(), photo()]}).outputs
    valid = dict(zip(["first", *bad, "last"], answer["valid"].tolist(), strict=True))
    assert valid == {"first": True, **dict.fromkeys(bad, False), "last": True}
    assert set(answer["labels"][0][:3]) == set(answer["labels"][-1][:3]) == CATS
    assert set(answer["labels"][1:-1].ravel()) == {b""}
    assert not answer["probabilities"][1:-1].any()


def test_bombs_take_no_memory(server: RunningServer, url: str) -> None:
    """Eight of each at once, of 36 million and more pixels: expanded, one alone would be 108 MB."""
    before = forget_peak(server)
    with Client(url) as client:
        for kind, data in bombs().items():
            answer = client.predict("imagenet", {"image_bytes": [data] * 8}).outputs
            assert answer["valid"].tolist() == [False] * 8, kind
    assert peak(server) - before < 100_000_000


def test_100_mb_of_noise_disturb_nobody_and_take_bounded_memory(server: RunningServer, url: str) -> None:
    noise, good = noise_of_100_mb(), photo()
    before = forget_peak(server)
    with Client(url, timeout_s=60) as client, Client(server.rest) as other, ThreadPoolExecutor(3) as pool:
        huge = pool.submit(client.predict, "imagenet", {"image_bytes": [noise]})
        while True:
            answer = other.predict("imagenet", {"image_bytes": [good]}).outputs
            assert set(answer["labels"][0][:3]) == CATS
            if huge.done():
                break
        assert huge.result().outputs["valid"].tolist() == [False]
    assert peak(server) - before < 10 * len(noise)
    assert memory(server)["VmRSS"] - before < 3 * len(noise)


def batches(server: RunningServer) -> float:
    """How many the server has run, by its own count."""
    text = plain_http.get(f"{server.rest}/monitoring/prometheus/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("servekit_batch_size_count"))


def memory(server: RunningServer) -> dict[str, int]:
    """Bytes by name: VmRSS now, VmHWM at its highest."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def peak(server: RunningServer) -> int:
    return memory(server)["VmHWM"]


def forget_peak(server: RunningServer) -> int:
    """Its memory now; `peak` is from now on."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return memory(server)["VmRSS"]


def test_the_other_signatures_answer_too(url: str) -> None:
    with Client(url) as client:
        spec = ModelSpec("imagenet", signature_name="serving_base64url")
        answer = client.predict(spec, {"image_base64url": [base64.urlsafe_b64encode(photo())]}).outputs
        assert set(answer["labels"][0][:3]) == CATS
        spec = ModelSpec("imagenet", signature_name="tensor")
        images = np.zeros((2, 224, 224, 3), np.float32)
        assert client.predict(spec, {"images": images}).outputs["logits"].shape == (2, 1000)


@pytest.mark.parametrize("model", ["imagenet", "half_plus_two"])
def test_the_curl_lines_that_inspect_shows_are_answered(server: RunningServer, exported: Exported, model: str) -> None:
    shown = json.loads(servekit(exported.bundle, "inspect", model, "--json").stdout)
    (meta_graph,) = shown["meta_graphs"]
    for name, signature in meta_graph["signatures"].items():
        call = signature["curl"].replace("http://127.0.0.1:8501", server.rest)
        done = subprocess.run(["sh", "-c", call], cwd=exported.bundle.root, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        assert list(answer) == ["predictions" if signature["method"] == "predict" else "results"], name
        if name in ("serving_default", "serving_base64url") and model == "imagenet":
            assert {label.encode() for label in answer["predictions"][0]["labels"][:3]} == CATS
        if name == "classify":
            assert {label.encode() for label, _ in answer["results"][0][:3]} == CATS


def test_no_images_at_all_get_an_answer_without_rows(server: RunningServer) -> None:
    """Over gRPC: REST's row format has no way to say it."""
    with Client(f"grpc://{server.grpc}") as client:
        none = np.empty(0, object)
        for signature, name in (("serving_default", "image_bytes"), ("serving_base64url", "image_base64url")):
            answer = client.predict(ModelSpec("imagenet", signature_name=signature), {name: none}).outputs
            assert {output: array.shape for output, array in answer.items()} == {
                "labels": (0, 5),
                "probabilities": (0, 5),
                "class_ids": (0, 5),
                "valid": (0,),
            }
        images = np.zeros((0, 224, 224, 3), np.float32)
        answer = client.predict(ModelSpec("imagenet", signature_name="tensor"), {"images": images}).outputs
        assert answer["logits"].shape == answer["probabilities"].shape == (0, 1000)


def test_classify_answers_over_grpc(server: RunningServer) -> None:
    with Client(f"grpc://{server.grpc}") as client:
        spec = ModelSpec("imagenet", signature_name="classify")
        (classes,) = client.classify(spec, [{"image/encoded": photo()}])
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
