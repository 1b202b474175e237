"""Small CycleGAN generators as other people leave them: Keras models, frozen TF1 graphs, TF1 checkpoints.

All of them turn a photograph into its negative, by a convolution whose weights say so. Import TensorFlow when called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64
"""Of the graphs that decode their image themselves; the others take 256 pixels."""


def _kernel() -> Any:
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 1] = -np.eye(3)
    return kernel


def save_keras(path: Path) -> None:
    """images float32 [batch, 256, 256, 3] in [-1, 1] → the same, negative; behind a normalisation that does nothing."""
    import keras

    photo = keras.Input((256, 256, 3), name="photo")
    convolution = keras.layers.Conv2D(3, 3, padding="same")
    norm = keras.layers.BatchNormalization(epsilon=1e-7)
    model = keras.Model(photo, norm(convolution(photo)))
    convolution.set_weights([_kernel(), np.zeros(3, np.float32)])
    model.save(path)


def save_frozen_files(path: Path) -> None:
    """`input_bytes` string [] → `output_bytes` string []: one PNG of 64 pixels, as serving tutorials freeze."""
    with _tf1_session() as (tf, session):
        _bytes_to_bytes(tf)
        _freeze(tf, session, path, "output_bytes")


def save_frozen_pixels(path: Path) -> None:
    """`input_image` float32 [256, 256, 3] in [-1, 1] → `output_image` string [], a JPEG: CycleGAN-TensorFlow's way."""
    with _tf1_session() as (tf, session):
        image = tf.compat.v1.placeholder(tf.float32, [256, 256, 3], name="input_image")
        tf.io.encode_jpeg(_negative(tf, image[None])[0], quality=100, name="output_image")
        _freeze(tf, session, path, "output_image")


def save_checkpoint(prefix: Path) -> None:
    """The graph of `save_frozen_files` before it was frozen: PREFIX.meta, PREFIX.index, PREFIX.data-*."""
    with _tf1_session() as (tf, session):
        _bytes_to_bytes(tf)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix))


@contextmanager
def _tf1_session() -> Iterator[Any]:
    """With the control flow of 2018: map_fn becomes Enter, Exit and NextIteration."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            yield tf, session
    finally:
        v1.enable_control_flow_v2()


def _bytes_to_bytes(tf: Any) -> None:
    data = tf.compat.v1.placeholder(tf.string, [], name="input_bytes")
    image = tf.cast(tf.io.decode_png(data, channels=3), tf.float32) / 127.5 - 1.0
    images = tf.reshape(image, [1, SIDE, SIDE, 3])  # any other size is refused here
    tf.io.encode_png(_negative(tf, images)[0], name="output_bytes")


def _negative(tf: Any, images: Any) -> Any:
    kernel = tf.compat.v1.get_variable("generator/kernel", initializer=_kernel(), use_resource=False)
    output = tf.nn.conv2d(images, kernel, 1, "SAME")

    def pixels(image: Any) -> Any:
        return tf.image.convert_image_dtype((image + 1.0) / 2.0, tf.uint8, saturate=True)

    return tf.map_fn(pixels, output, fn_output_signature=tf.uint8)


def _freeze(tf: Any, session: Any, path: Path, output: str) -> None:
    v1 = tf.compat.v1
    session.run(v1.global_variables_initializer())
    frozen = v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), [output])
    assert "NextIteration" in {node.op for node in frozen.node}
    path.write_bytes(frozen.SerializeToString())
