from __future__ import annotations

from pathlib import Path

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
