"""What the benchmark holds exports against: the same network from Keras layers, exported as most tutorials do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from servekit.export import graph, usual_export
from servekit.export.keras_network import as_keras
from servekit.export.recipe import Model, Network, Signature, Source, Spec, strings

SAMPLES = Path(__file__).parents[2] / "export" / "samples"
SIZE = 32


def _small(random: np.random.Generator) -> Network:
    """Of each layer that EfficientNet-Lite has, one."""

    def weights(*shape: int) -> Any:
        return random.normal(size=shape).astype("float32") * 0.3

    values = [weights(3, 3, 3, 8), weights(3, 3, 8, 1), weights(1, 1, 8, 8), weights(8, 5), weights(5)]
    norms = [(abs(weights(8)) + 0.5, weights(8), weights(8), abs(weights(8)) + 0.5) for _ in range(3)]

    def norm(x: Any, number: int) -> Any:
        return tf.compat.v1.nn.fused_batch_norm(x, *norms[number], epsilon=1e-3, is_training=False)[0]

    def function(images: Any) -> Any:
        x = tf.nn.relu6(norm(tf.nn.conv2d(images, values[0], 2, "SAME"), 0))
        y = tf.nn.relu6(norm(tf.nn.depthwise_conv2d(x, values[1], [1, 1, 1, 1], "SAME"), 1))
        y = x + norm(tf.nn.conv2d(y, values[2], 1, "SAME"), 2)
        return tf.matmul(tf.reduce_mean(y, [1, 2]), values[3]) + values[4]

    return Network(function, {"images": Spec("float32", (None, SIZE, SIZE, 3))})


def test_the_network_of_keras_layers_gives_what_the_traced_one_gives() -> None:
    random = np.random.default_rng(0)
    traced = graph.trace(_small(random))
    images = random.uniform(-1, 1, (3, SIZE, SIZE, 3)).astype("float32")
    (expected,) = graph.run_once(traced, {"images": images}).values()
    network = as_keras(traced)
    np.testing.assert_allclose(network(images, training=False), expected, rtol=1e-4, atol=1e-5)
    kinds = {type(layer).__name__ for layer in network.layers}
    assert {"Conv2D", "DepthwiseConv2D", "BatchNormalization", "Dense"} <= kinds


def test_an_operation_without_a_layer_is_named() -> None:
    traced = graph.trace(Network(lambda images: tf.nn.elu(images), {"images": Spec("float32", (None, 4, 4, 3))}))
    with pytest.raises(ValueError, match="no Keras layer is known for Elu"):
        as_keras(traced)


@pytest.mark.parametrize("filtered", [False, True])
def test_the_usual_export_loads_as_in_the_server_and_labels_a_photograph(tmp_path: Path, filtered: bool) -> None:
    network = _small(np.random.default_rng(0))
    traced = graph.trace(network)
    tensor = Signature(lambda called, images: {"logits": called(images=images)}, dict(network.inputs))
    model = Model(signatures={"tensor": tensor}, network=network, source=Source("test"), checks=lambda _: [], warmup={})
    usual_export.save(usual_export.usual_way(model, SIZE, filtered=filtered), as_keras(traced), tmp_path / "1")
    images = np.random.default_rng(1).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype("float32")
    (expected,) = graph.run_once(traced, {"images": images}).values()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "1"))
        signatures = loaded.signature_def
        logits = session.run(
            signatures["tensor"].outputs["logits"].name, {signatures["tensor"].inputs["images"].name: images}
        )
        from_bytes = signatures["serving_default"]
        photographs = strings((SAMPLES / "chelsea.jpg").read_bytes(), (SAMPLES / "chelsea.png").read_bytes())
        found = session.run(
            from_bytes.outputs["probabilities"].name, {from_bytes.inputs["image_bytes"].name: photographs}
        )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)
