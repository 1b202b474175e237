"""The first layers in pieces: the same answers for every batch size, each weight once, only where images stay apart."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from servekit.export.recipe import Network, Spec

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_RANDOM = np.random.default_rng(0)
SIDE = 128
"""Behind the first layer an image takes 2 MB with 32 channels, and 0.5 MB with 8."""


def network(channels: int = 32, *, mixed: bool = False) -> Network:
    """Three layers and a residual sum, before a fourth with many weights."""
    kernels = [
        _RANDOM.normal(0, 0.2, shape).astype(np.float32)
        for shape in ((3, 3, 3, channels), (1, 1, channels, 8), (3, 3, 8, 8), (5, 5, 8, 800))
    ]

    def function(images: Any) -> Any:
        import tensorflow as tf

        if mixed:
            images = images - tf.reduce_mean(images, axis=0)
        x = tf.nn.relu6(tf.nn.conv2d(images, kernels[0], 1, "SAME"))
        x = tf.nn.conv2d(x, kernels[1], 4, "SAME")
        x = x + tf.nn.relu(tf.nn.conv2d(x, kernels[2], 1, "SAME"))
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernels[3], 4, "SAME")), [1, 2])

    return Network(function, {"images": Spec("float32", (None, SIDE, SIDE, 3))})


def test_every_batch_size_is_answered_as_by_the_whole_network() -> None:
    from servekit.export import graph, pieces

    written = graph.trace(network())
    done, changed = pieces.in_pieces(written)
    assert changed
    for batch in (1, 2, 3, 4, 5, 8, 9):
        images = _RANDOM.uniform(-1, 1, (batch, SIDE, SIDE, 3)).astype(np.float32)
        (whole,), (answer,) = (graph.run_once(traced, {"images": images}).values() for traced in (written, done))
        assert answer.shape == (batch, 800)
        np.testing.assert_allclose(answer, whole, atol=1e-6)


def test_layers_with_few_weights_run_for_each_piece_and_weights_are_stored_once() -> None:
    from servekit.export import graph, pieces

    written = graph.trace(network())
    done, _ = pieces.in_pieces(written)
    operations = Counter(node.op for node in done.graph.node)
    assert operations["Conv2D"] == 3 * pieces.PIECES + 1, "640 kB of weights are too many for pieces"
    sizes = [sorted(value.nbytes for value in traced.weights().values()) for traced in (written, done)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "other", [network(8), network(mixed=True)], ids=["small activations", "images that depend on one another"]
)
def test_other_networks_stay_as_they_are(other: Network) -> None:
    from servekit.export import graph, pieces

    written = graph.trace(other)
    assert pieces.in_pieces(written) == (written, False)
