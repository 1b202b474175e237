from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export import recipes
from servekit.export.recipe import Model, Options
from servekit.paths import Bundle
from tests.export.bundles import ROOT, new_bundle, servekit
from tests.export.saved_networks import keras_model, save_keras

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside Keras, with NumPy 2
]


def build(source: Path) -> Model:
    return recipes.load(Bundle(ROOT), "resnet").build(Options("resnet50v2", str(source)))


def test_keras_weights_of_the_real_architecture_are_used(tmp_path: Path) -> None:
    import keras

    model = keras.applications.ResNet50V2(weights=None, classifier_activation=None)
    model.save_weights(tmp_path / "mine.weights.h5")
    images = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    network = build(tmp_path / "mine.weights.h5").network
    assert network is not None
    np.testing.assert_allclose(network.function(images), model(images, training=False), atol=1e-4)
    keras_model().save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ExportError, match=r"other\.weights\.h5: these are not ResNet50V2's weights"):
        build(tmp_path / "other.weights.h5")


def test_a_tf_hub_folder_has_a_background_class_and_takes_zero_to_one(tmp_path: Path) -> None:
    import tensorflow as tf

    from servekit.export import graph

    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(0).normal(0, 1, (3, 1001)).astype(np.float32))

    def logits(inputs: Any) -> Any:
        return {"logits": tf.reduce_mean(inputs, [1, 2]) @ module.kernel}

    spec = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="inputs")
    tf.saved_model.save(module, str(tmp_path / "hub"), signatures=tf.function(logits, input_signature=[spec]))
    model = build(tmp_path / "hub")
    images = model.warmup["serving_default"]["images"]
    assert 0 <= images.min() < images.max() <= 1
    assert model.network is not None
    (written,) = graph.run_once(graph.trace(model.network), {"images": images}).values()
    np.testing.assert_allclose(written, images.mean((1, 2)) @ module.kernel.numpy(), atol=1e-4)
    questions = {check.name: check for check in model.checks(lambda inputs: {"output": background_first(inputs)})}
    assert set(questions["top-1 agreement"].expected.ravel()) == {0}
    graph.save(model, graph.trace(model.network), tmp_path / "1", freeze=True)
    assert b"background" in (tmp_path / "1" / "saved_model.pb").read_bytes()


def background_first(inputs: Mapping[str, Any]) -> Any:
    """Logits [batch, 1001] by which nothing but background is seen."""
    (images,) = inputs.values()
    return np.eye(1001, dtype=np.float32)[[0] * len(images)]


def test_a_network_with_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_keras(tmp_path / "small.keras", size=224, classes=7)
    with pytest.raises(ExportError, match="the network has 7 classes; 1000, or 1001 with a background class"):
        build(tmp_path / "small.keras")


def test_a_file_that_is_not_hdf5_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(b"hello")
    with pytest.raises(ExportError, match=r"bad\.h5: not an HDF5 file"):
        build(tmp_path / "bad.h5")


def test_without_network_the_download_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))  # nothing downloaded before
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    done = servekit(new_bundle(tmp_path / "bundle"), "export", "resnet", "--version", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: ResNet50V2: its weights cannot be downloaded: URL fetch failure on https://")
    assert hint.startswith("hint: download them elsewhere and give the file: --source PATH")
