"""Small networks as other people save them. Import TensorFlow when called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 32
CLASSES = 6


def keras_model(size: int = SIZE, classes: int = CLASSES, strides: int = 4) -> Any:
    """photo float32 [batch, size, size, 3] → scores [batch, classes]; its normalisation has work to do."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    photo = keras.Input((size, size, 3), name="photo")
    x = layers.Conv2D(8, 5, strides=strides, use_bias=False)(photo)
    norm = layers.BatchNormalization()
    x = layers.ReLU()(norm(x))
    model = keras.Model(photo, layers.Dense(classes, name="scores")(layers.Flatten()(x)))
    norm.set_weights([keras.random.uniform(w.shape, 0.5, 1.5, seed=i) for i, w in enumerate(norm.get_weights())])
    return model


def save_keras(path: Path, size: int = SIZE, classes: int = CLASSES, strides: int = 4) -> Any:
    model = keras_model(size, classes, strides)
    model.save(path)
    return model


def save_tf2(folder: Path) -> Callable[[Any], Any]:
    """A tf.Module with a nested function and softmax inside; returns it as a Python function."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(2).normal(0, 0.05, (SIZE * SIZE * 3, CLASSES)).astype(np.float32))

    def inner(photo: Any) -> Any:
        return tf.reshape(photo, [-1, SIZE * SIZE * 3]) @ module.kernel

    nested = tf.function(inner)

    def answer(photo: Any) -> Any:
        return {"probabilities": tf.nn.softmax(nested(photo))}

    serve = tf.function(answer, input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="photo")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return lambda photo: np.asarray(serve(tf.constant(photo))["probabilities"])


def _tf1_weights() -> Any:
    return np.random.default_rng(3).normal(0, 0.05, (SIZE * SIZE * 3, CLASSES)).astype(np.float32)


def tf1_answers(images: Any) -> Any:
    return images.reshape(len(images), -1) @ _tf1_weights() + 0.5


def save_tf1(folder: Path) -> None:
    """Reference variables, two meta graphs, named signatures: as the tutorials of 2017 have it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        images = v1.placeholder(tf.float32, [None, SIZE, SIZE, 3], name="images")
        kernel = v1.get_variable("kernel", initializer=_tf1_weights(), use_resource=False)
        bias = v1.get_variable("bias", initializer=np.full(CLASSES, 0.5, np.float32), use_resource=False)
        scores = tf.reshape(images, [-1, SIZE * SIZE * 3]) @ kernel + bias
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info

        def signature(**outputs: Any) -> Any:
            shown = {alias: info(tensor) for alias, tensor in outputs.items()}
            return v1.saved_model.build_signature_def({"images": info(images)}, shown, "tensorflow/serving/predict")

        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"predict_images": signature(scores=scores)})
        builder.add_meta_graph(["serve", "gpu"], {"first_score": signature(score=scores[:, 0])})
        builder.save()
