"""A release as DeepLab's authors make them, with the person network inside: their nodes, their preprocessing, TF1.

The public releases cannot be shipped here. What they do is: take one uint8 image of any size up to 513, pad it with
the mean colour (behind a conditional and an assertion, in TF1's control flow), and cut the answer to the image's size.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from servekit.export.tflite import tflite_network

SIDE = 513
PERSON = 15
"""PASCAL VOC's class id."""
_MEAN = 127.5


def save_release(path: Path, tflite: Path) -> None:
    """A .tar.gz with frozen_inference_graph.pb and what else lies in such archives."""
    members = {
        "deeplabv3_person/frozen_inference_graph.pb": frozen_graph(tflite),
        "deeplabv3_person/model.ckpt-30000.index": b"a checkpoint without its graph",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def frozen_graph(tflite: Path) -> bytes:
    """A GraphDef: ImageTensor uint8 [1, ?, ?, 3] → SemanticPredictions int64 [1, ?, ?]."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            _build(tf, tflite)
            session.run(v1.global_variables_initializer())
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), ["SemanticPredictions"]
            )
    finally:
        v1.enable_control_flow_v2()
    assert {"Switch", "Merge", "Assert"} <= {node.op for node in frozen.node}
    data: bytes = frozen.SerializeToString()
    return data


def _build(tf: Any, tflite: Path) -> None:
    found = tflite_network(tflite)
    (entry,), (exit_,) = found.network.inputs, found.outputs
    image = tf.compat.v1.placeholder(tf.uint8, [1, None, None, 3], name="ImageTensor")
    shape = tf.shape(image)
    fits = tf.debugging.Assert(tf.reduce_all(shape[1:3] <= SIDE), ["larger than the crop size", shape])
    with tf.control_dependencies([fits]):
        pixels = tf.cast(image, tf.float32) - _MEAN
    missing = SIDE - shape[1:3]
    padding = tf.stack([[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
    padded = tf.cond(tf.reduce_any(missing > 0), lambda: tf.pad(pixels, padding), lambda: pixels)
    padded = tf.ensure_shape(padded, [1, SIDE, SIDE, 3])
    scale = tf.compat.v1.get_variable("scale", initializer=np.full(3, 1 / 255, np.float32))
    small = tf.image.resize(padded + _MEAN, (256, 256)) * scale
    person = tf.image.resize(found.network.function(**{entry: small})[exit_], (SIDE, SIDE))[..., 0] > 0.5
    ids = tf.where(person, tf.constant(PERSON, tf.int64), tf.constant(0, tf.int64))
    tf.slice(ids, [0, 0, 0], tf.stack([1, shape[1], shape[2]]), name="SemanticPredictions")
