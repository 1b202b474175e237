"""The longer recipe of docs/exporting.md, word for word, with a small Keras model of our own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.bundles import environment, new_bundle, servekit
from tests.export.zoo import documented_recipes

TRAIN = """
import sys
import keras
from keras import layers
keras.utils.set_random_seed(1)
inputs = keras.Input((160, 160, 3))
x = layers.Conv2D(8, 3, strides=4, use_bias=False)(inputs)
x = layers.BatchNormalization()(x)
x = layers.DepthwiseConv2D(3)(layers.ReLU()(x))
x = layers.BatchNormalization()(x)
x = layers.ReLU()(x)
model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
for layer in model.layers:  # fresh normalisations would change nothing
    if isinstance(layer, layers.BatchNormalization):
        layer.set_weights([keras.random.uniform(w.shape, 0.5, 1.5, seed=i) for i, w in enumerate(layer.get_weights())])
model.save(sys.argv[1])
"""


@pytest.mark.slow
def test_the_documented_recipe_exports_a_keras_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = documented_recipes()[1]
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 25
    bundle = new_bundle(tmp_path / "bundle")
    (bundle.recipes / "cats.py").write_text(recipe)
    (bundle.recipes / "weights").mkdir()
    weights = bundle.recipes / "weights" / "cats.keras"
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(weights)], env=environment(bundle), check=True, capture_output=True
    )
    # Settings for other work with Keras, which would make a model that TensorFlow cannot save, or of another layout.
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(
        '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float16"}'
    )
    done = servekit(bundle, "export", "cats", "--version", "1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["signatures"]["serving_default"]["outputs"]["labels"] == {"dtype": "string", "shape": [-1, 2]}
    assert [result["ok"] for result in document["parity"]] == [True] * 4
    assert document["graph"] == {"batch_norms_folded": 2, "frozen": True}
    assert document["weights"]["files"][0]["name"] == "cats.keras"
