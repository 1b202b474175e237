"""Networks in TensorFlow.js's layers format: `model.json` (a Keras 2 topology) and the weights' shards beside it.

Read without TensorFlow.js. Format: tensorflow/tfjs, tfjs-core/src/io/types.ts; layers mean what Keras says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.network_file import NetworkFile
from servekit.export.recipe import Array, Network, Spec

_ACTIVATIONS = ("linear", "relu", "relu6", "sigmoid", "tanh")
Settings = Mapping[str, Any]
Weights = dict[str, Array]


def tfjs_layers_network(path: Path) -> NetworkFile:
    """A functional model with one input. Raises ExportError for layers that are not known here."""
    document = _read(path)
    try:
        config = document["modelTopology"]["model_config"]["config"]
        layers = [(layer["class_name"], layer["config"], _sources(layer)) for layer in config["layers"]]
        (entry,), (exit_,) = (_layer_names(config[key]) for key in ("input_layers", "output_layers"))
        weights, files = _weights(path, document["weightsManifest"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{path.name}: not a functional model in TensorFlow.js's layers format: {error}") from error
    unknown = sorted({kind for kind, _, _ in layers} - {"InputLayer", *LAYERS})
    if unknown:
        raise ExportError(f"{path.name}: layers that are not supported: {', '.join(unknown)}")
    shape = next(settings["batch_input_shape"] for kind, settings, _ in layers if kind == "InputLayer")

    def function(images: Any) -> Mapping[str, Any]:
        unused = dict(weights)
        values: dict[str, Any] = {entry: images}
        for kind, settings, sources in layers:
            if kind != "InputLayer":
                inputs = [values[name] for name in sources]
                values[settings["name"]] = LAYERS[kind](inputs, settings, unused)
        if unused:
            raise ExportError(f"{path.name}: weights that no layer uses: {', '.join(sorted(unused))}")
        return {"output": values[exit_]}

    return NetworkFile(Network(function, {"images": Spec("float32", tuple(shape))}), ["output"], [path, *files])


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise ExportError(f"{path.name}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format", "layers-model") != "layers-model":
        raise ExportError(f"{path.name}: not a model in TensorFlow.js's layers format")
    return document


def _sources(layer: Mapping[str, Any]) -> list[str]:
    nodes = layer["inbound_nodes"]
    if len(nodes) > 1:
        raise ValueError(f"layer {layer['name']} is used {len(nodes)} times")
    return _layer_names(nodes[0]) if nodes else []


def _layer_names(references: Any) -> list[str]:
    """Of `[[name, node, tensor, ...], ...]`"""
    return [str(reference[0]) for reference in references]


def _weights(path: Path, manifest: Any) -> tuple[Weights, list[Path]]:
    """Name to float32 array, and the shards' files; what is stored quantised is scaled back."""
    weights: Weights = {}
    files: list[Path] = []
    for group in manifest:
        shards = [path.parent / Path(name).name for name in group["paths"]]
        try:
            data = b"".join(shard.read_bytes() for shard in shards)
        except OSError as error:
            raise ExportError(f"{path.name}: its weights {error.filename}: {error.strerror}") from error
        files += shards
        offset = 0
        for entry in group["weights"]:
            packing = entry.get("quantization") or {}
            dtype = np.dtype(packing.get("dtype", entry["dtype"]))
            count = prod(entry["shape"])
            values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"]).astype(np.float32)
            offset += count * dtype.itemsize
            weights[entry["name"]] = values * packing.get("scale", 1.0) + packing.get("min", 0.0)
        if offset != len(data):
            raise ValueError(f"{len(data)} bytes of weights, {offset} are declared")
    return weights, files


def _activated(x: Any, name: str) -> Any:
    import tensorflow as tf

    if name not in _ACTIVATIONS:
        raise ExportError(f"activation {name} is not supported")
    return x if name == "linear" else getattr(tf.nn, name)(x)


def _convolution(inputs: list[Any], settings: Settings, weights: Weights) -> Any:
    import tensorflow as tf

    if settings.get("data_format", "channels_last") != "channels_last" or settings.get("groups", 1) != 1:
        raise ExportError(f"layer {settings['name']}: channels first and grouped convolutions are not supported")
    kernel = weights.pop(f"{settings['name']}/kernel")
    padding, dilations = settings["padding"].upper(), settings.get("dilation_rate", 1)
    y = tf.nn.conv2d(inputs[0], kernel, settings["strides"], padding, dilations=dilations)
    if settings.get("use_bias", True):
        y = tf.nn.bias_add(y, weights.pop(f"{settings['name']}/bias"))
    return _activated(y, settings.get("activation", "linear"))


def _enlarged(inputs: list[Any], settings: Settings, _: Weights) -> Any:
    import tensorflow as tf

    size = tf.shape(inputs[0])[1:3] * tf.constant(settings["size"])
    return tf.image.resize(inputs[0], size, settings.get("interpolation", "nearest"))


def _concatenated(inputs: list[Any], settings: Settings, _: Weights) -> Any:
    import tensorflow as tf

    return tf.concat(inputs, settings["axis"])


def _added(inputs: list[Any], _: Settings, __: Weights) -> Any:
    import tensorflow as tf

    return tf.add_n(inputs)


LAYERS: Mapping[str, Callable[[list[Any], Settings, Weights], Any]] = {
    "Activation": lambda inputs, settings, _: _activated(inputs[0], settings["activation"]),
    "Add": _added,
    "Concatenate": _concatenated,
    "Conv2D": _convolution,
    "UpSampling2D": _enlarged,
}
"""What each layer computes from its inputs, its settings and the weights, of which it takes its own out."""
