"""Models of other frameworks and files: exported, served, asked over REST and gRPC."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from servekit.client import Client, ModelSpec
from servekit.errors import ExportError
from servekit.paths import Bundle
from tests.conftest import RunningServer, Serve
from tests.export import zoo
from tests.export.bundles import ROOT
from tests.export.saved_networks import SIZE, tf1_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside Keras, with NumPy 2
]

PHOTO = (ROOT / "export" / "samples" / "coffee.jpg").read_bytes()
Zoo = tuple[Bundle, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return zoo.build(tmp_path_factory.mktemp("zoo") / "bundle")


@pytest.fixture(scope="module")
def server(serve: Serve, built: Zoo) -> RunningServer:
    bundle, manifests = built
    configs = "".join(
        f"config {{ name: '{name}' base_path: '{bundle.models / name}' model_platform: 'tensorflow' }}\n"
        for name in manifests
    )
    return serve(
        "--model_config_file={work}/models.config",
        "--enable_batching=true",
        files={"models.config": f"model_config_list {{\n{configs}}}\n"},
    )


@pytest.fixture(params=["REST", "gRPC"])
def url(server: RunningServer, request: pytest.FixtureRequest) -> str:
    return server.rest if request.param == "REST" else f"grpc://{server.grpc}"


def test_every_export_was_held_to_its_reference_and_warmed_up(built: Zoo) -> None:
    for name, manifest in built[1].items():
        assert manifest["parity"], name
        assert all(result["ok"] for result in manifest["parity"]), name
        assert manifest["warmup"]["records"] >= 2, name


def test_folders_are_told_by_their_names_alone(built: Zoo) -> None:
    """`.` too; nothing of where they lay."""
    assert {name: built[1][name]["weights"]["name"] for name in ("features", "scores", "vit")} == {
        "features": "tf2", "scores": "tf1", "vit": "small"
    }  # fmt: skip


def test_a_keras_classifier_declared_in_ten_lines_answers_from_bytes(built: Zoo, url: str) -> None:
    manifest = built[1]["cats"]
    assert manifest["graph"] == {"batch_norms_folded": 1, "frozen": True}
    assert manifest["weights"]["files"][0]["name"] == "cats.keras"
    with Client(url) as client:
        answer = client.predict("cats", {"image_bytes": [PHOTO, b"garbage"]}).outputs
    assert set(answer["labels"][0]) == {b"cat", b"something else"}
    assert answer["valid"].tolist() == [True, False]


def test_features_of_a_tf2_saved_model_come_from_bytes(url: str) -> None:
    with Client(url) as client:
        answer = client.predict("features", {"image_bytes": [PHOTO, b"garbage"]}).outputs
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), [1, 0], atol=1e-5)
    assert answer["valid"].tolist() == [True, False]
    texts = {"image_base64url": [base64.urlsafe_b64encode(PHOTO), b"!"]}
    with Client(url) as client:
        same = client.predict(ModelSpec("features", signature_name="serving_base64url"), texts).outputs
    np.testing.assert_array_equal(same["probabilities"], answer["probabilities"])


def test_a_tf1_saved_model_answers_as_before(url: str) -> None:
    images = np.random.default_rng(5).uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    with Client(url) as client:
        answer = client.predict("scores", {"images": images}).outputs
    np.testing.assert_allclose(answer["scores"], tf1_answers(images), atol=1e-4)


def test_resnet_takes_preprocessed_images_by_default_and_files_by_serving_preprocess(built: Zoo, url: str) -> None:
    assert built[1]["resnet"]["graph"] == {"batch_norms_folded": 1, "frozen": False}  # its weights are variables
    signatures = built[1]["resnet"]["signatures"]
    assert signatures["serving_default"]["inputs"] == {"images": {"dtype": "float32", "shape": [-1, 224, 224, 3]}}
    with Client(url) as client:
        answer = client.predict("resnet", {"images": np.zeros((2, 224, 224, 3), np.float32)}).outputs
        assert answer["logits"].shape == (2, 1001)
        spec = ModelSpec("resnet", signature_name="serving_preprocess")
        answer = client.predict(spec, {"image_bytes": [PHOTO, b"garbage"]}).outputs
    assert answer["labels"].shape == answer["probabilities"].shape == (2, 5)
    assert (np.diff(answer["probabilities"][0]) <= 0).all()
    assert answer["labels"][1].tolist() == [b""] * 5


def test_vit_answers_with_the_best_label_and_its_confidence_as_torch_does(url: str) -> None:
    with np.load(ROOT / "tests" / "export" / "vit" / "small" / "reference.npz") as reference:
        logits = reference["photo_logits"][0]
    expected = np.exp(logits) / np.exp(logits).sum()
    with Client(url) as client:
        answer = client.predict("vit", {"image_bytes": [PHOTO, b"garbage"]}).outputs
    names = [b"espresso", b"cat", b"rocket", b"tulip", b"daisy", b"rose"]
    assert answer["label"].tolist() == [names[int(expected.argmax())], b""]
    np.testing.assert_allclose(answer["confidence"], [expected.max(), 0], atol=1e-3)
    np.testing.assert_allclose(answer["probabilities"][0], np.sort(expected)[::-1][:5], atol=1e-3)


def test_the_wrong_number_of_labels_is_said_before_anything_is_published(built: Zoo) -> None:
    bundle, _ = built
    (bundle.recipes / "few.py").write_text(zoo.FEATURES.replace("url=", "labels=['a', 'b'], url="))
    with pytest.raises(ExportError, match="the network gives 6 classes, but there are 2 labels"):
        zoo.run(bundle, "few", "few", bundle.root / "tf2")
    assert not (bundle.models / "few").exists()
