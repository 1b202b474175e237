"""The export of most tutorials, which `servekit.export.benchmark` holds ours against.

A Keras 3 model in a `tf.function` with `decode_image`, one `tf.image.resize` and `tf.map_fn`, written by
`tf.saved_model.save`: nothing folded, nothing frozen. Imports TensorFlow and Keras.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from servekit.export.graph import tensor_spec
from servekit.export.recipe import Model, Signature, Spec


def usual_way(model: Model, size: int, *, filtered: bool) -> Model:
    """The signatures of most tutorials; `filtered`: with the network's own crop and an antialiased bicubic filter."""

    def predict(network: Any, image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            if not filtered:
                return (tf.image.resize(image, (size, size)) - 127.0) / 128.0
            sides = tf.shape(image)[:2]
            side = tf.reduce_min(sides) * size // (size + 32)
            top, left = tf.unstack((sides - side) // 2)
            image = tf.image.crop_to_bounding_box(image, top, left, side, side)
            return (tf.image.resize(image, (size, size), "bicubic", antialias=True) - 127.0) / 128.0

        images = tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([size, size, 3]))
        values, ids = tf.math.top_k(tf.nn.softmax(network(images=images)), 5)
        return {"probabilities": values, "class_ids": ids}

    def tensor(network: Any, images: Any) -> dict[str, Any]:
        logits = network(images=images)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    signatures = {
        "serving_default": Signature(predict, {"image_bytes": Spec("string", (None,))}),
        "tensor": Signature(tensor, model.signatures["tensor"].inputs),
    }
    return replace(model, signatures=signatures)


def save(model: Model, network: keras.Model, folder: Path) -> None:
    """Writes the SavedModel (tag `serve`) with the model's signatures into `folder`."""
    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]
    functions = {name: _function(signature, network) for name, signature in model.signatures.items()}
    tf.saved_model.save(module, str(folder), signatures=functions)


def _function(signature: Signature, network: keras.Model) -> Any:
    def called(images: Any) -> Any:
        return network(images, training=False)

    def function(*tensors: Any) -> dict[str, Any]:
        return dict(signature.function(called, **dict(zip(signature.inputs, tensors, strict=True))))

    specs = [tensor_spec(alias, spec) for alias, spec in signature.inputs.items()]
    return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
