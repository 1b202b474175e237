"""A traced convolutional network as a Keras 3 model, from the layers that its author would have taken.

What `servekit.export.benchmark` holds exports against: most networks that are served have been a Keras model, whose
batch normalisation is multiplications and additions of its own. Imports TensorFlow and Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from servekit.export.graph import Traced

Array = Any


def as_keras(traced: Traced) -> keras.Model:
    """One input [batch, rows, columns, channels], one output; equal to the traced network but for rounding.

    Raises ValueError for an operation that has no layer here.
    """
    (source,), (target,) = traced.inputs.values(), traced.outputs.values()
    constants = {
        node.name: tf.make_ndarray(node.attr["value"].tensor) for node in traced.graph.node if node.op == "Const"
    }
    values: dict[str, Any] = {}
    for node in traced.graph.node:
        inputs = [name.split(":")[0].lstrip("^") for name in node.input]
        given = [values[name] for name in inputs if name in values]
        weights = [constants[name] for name in inputs if name in constants]
        if node.op == "Const":
            continue
        if node.name == source.split(":")[0]:
            shape = [size.size for size in node.attr["shape"].shape.dim][1:]
            values[node.name] = keras.Input(shape)
        elif node.op in ("Identity", "NoOp"):
            values |= {node.name: given[0]} if given else {}
        else:
            values[node.name] = _layer(node, given, weights)
    return keras.Model(values[source.split(":")[0]], values[target.split(":")[0]])


def _layer(node: Any, given: list[Any], weights: list[Array]) -> Any:
    """What the node gives, from a Keras layer with its `weights`."""
    if node.op not in _LAYERS:
        raise ValueError(f"{node.name}: no Keras layer is known for {node.op}")
    return _LAYERS[node.op](node, given, weights)


def _with(layer: Any, given: Any, *weights: Array) -> Any:
    answer = layer(given)
    layer.set_weights(list(weights))
    return answer


def _convolution(node: Any, given: list[Any], weights: list[Array]) -> Any:
    rows, columns, _, filters = weights[0].shape
    layer = layers.Conv2D(filters, (rows, columns), _strides(node), _padding(node), use_bias=False)
    return _with(layer, given[0], weights[0])


def _depthwise(node: Any, given: list[Any], weights: list[Array]) -> Any:
    rows, columns, _, _ = weights[0].shape
    layer = layers.DepthwiseConv2D((rows, columns), _strides(node), _padding(node), use_bias=False)
    return _with(layer, given[0], weights[0])


def _norm(node: Any, given: list[Any], weights: list[Array]) -> Any:
    return _with(layers.BatchNormalization(epsilon=node.attr["epsilon"].f), given[0], *weights)


def _sum(_: Any, given: list[Any], weights: list[Array]) -> Any:
    return layers.Add()(given) if len(given) == 2 else given[0] + weights[0]


_LAYERS: Mapping[str, Callable[[Any, list[Any], list[Array]], Any]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "FusedBatchNormV3": _norm,
    "Relu6": lambda _, given, __: layers.ReLU(6.0)(given[0]),
    "AddV2": _sum,
    "Mean": lambda _, given, __: layers.GlobalAveragePooling2D()(given[0]),
    "MatMul": lambda _, given, weights: _with(layers.Dense(weights[0].shape[1], use_bias=False), given[0], *weights),
}


def _strides(node: Any) -> tuple[int, int]:
    _, rows, columns, _ = node.attr["strides"].list.i
    return rows, columns


def _padding(node: Any) -> str:
    return str(node.attr["padding"].s.decode().lower())
