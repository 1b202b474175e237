"""TensorFlow.js's layers format, read from a small file that says what its answers must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.tfjs import tfjs_layers_network

CONVOLUTION = {"strides": [1, 1], "padding": "same", "activation": "relu"}


def layer(kind: str, name: str, *sources: str, **settings: Any) -> dict[str, Any]:
    nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": {"name": name, **settings}, "inbound_nodes": nodes}


def document() -> dict[str, Any]:
    """1x1 convolution (2x - 1, then ReLU), itself added, joined with the image, enlarged."""
    layers = [
        layer("InputLayer", "in", batch_input_shape=[None, None, None, 1]),
        layer("Conv2D", "double", "in", **CONVOLUTION),
        layer("Add", "sum", "double", "double"),
        layer("Concatenate", "both", "sum", "in", axis=3),
        layer("Activation", "same", "both", activation="linear"),
        layer("UpSampling2D", "out", "same", size=[2, 2], interpolation="nearest"),
    ]
    config = {"layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
    packing = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    weights = [
        {"name": "double/kernel", "shape": [1, 1, 1, 1], "dtype": "float32"},
        {"name": "double/bias", "shape": [1], "dtype": "float32", "quantization": packing},
    ]
    return {
        "format": "layers-model",
        "modelTopology": {"model_config": {"class_name": "Functional", "config": config}},
        "weightsManifest": [{"paths": ["shard1", "shard2"], "weights": weights}],
    }


def save(folder: Path, content: Any) -> Path:
    data = np.array([2], "<f4").tobytes() + np.array([0], np.uint8).tobytes()
    (folder / "shard1").write_bytes(data[:3])  # shards end anywhere
    (folder / "shard2").write_bytes(data[3:])
    path = folder / "model.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_every_layer_does_what_keras_says(tmp_path: Path) -> None:
    found = tfjs_layers_network(save(tmp_path, document()))
    assert [path.name for path in found.files] == ["model.json", "shard1", "shard2"]
    images = np.array([[[[0.0], [1.0]]]], np.float32)
    (answer,) = found.network.function(images=images).values()
    assert np.asarray(answer)[0, :, :, 0].tolist() == [[0, 0, 2, 2]] * 2  # 2 relu(2x - 1)
    assert np.asarray(answer)[0, :, :, 1].tolist() == [[0, 0, 1, 1]] * 2


def test_a_layer_that_is_not_known_is_named(tmp_path: Path) -> None:
    content = document()
    content["modelTopology"]["model_config"]["config"]["layers"][4]["class_name"] = "MultiplyBeta"
    with pytest.raises(ExportError, match=r"model\.json: layers that are not supported: MultiplyBeta"):
        tfjs_layers_network(save(tmp_path, content))


@pytest.mark.slow
def test_weights_that_no_layer_uses_are_an_error(tmp_path: Path) -> None:
    content = document()
    content["weightsManifest"][0]["weights"][1]["name"] = "other/bias"
    content["modelTopology"]["model_config"]["config"]["layers"][1]["config"]["use_bias"] = False
    found = tfjs_layers_network(save(tmp_path, content))
    with pytest.raises(ExportError, match="weights that no layer uses: other/bias"):
        found.network.function(images=np.zeros((1, 1, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format="graph-model"), "not a model in TensorFlow.js's layers format"),
        (lambda d: d.pop("weightsManifest"), "not a functional model"),
        (lambda d: d["modelTopology"]["model_config"].update(config=[]), "not a functional model"),
        (lambda d: d["weightsManifest"][0]["weights"].pop(), "5 bytes of weights, 4 are declared"),
        (lambda d: d["weightsManifest"][0]["paths"].append("shard3"), "its weights .*shard3: No such file"),
    ],
    ids=["other format", "no weights", "sequential", "weights left over", "shard missing"],
)
def test_a_file_that_is_no_such_model_is_one_clear_line(tmp_path: Path, change: Any, reason: str) -> None:
    content = document()
    change(content)
    with pytest.raises(ExportError, match=reason) as caught:
        tfjs_layers_network(save(tmp_path, content))
    assert "\n" not in caught.value.message
