"""Folding changes the graph and not its answers, whichever way the normalisation is spelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from servekit.export import network_file
from servekit.export.recipe import Network, Spec
from tests.export.saved_networks import keras_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_RANDOM = np.random.default_rng(0)
KERNEL = _RANDOM.normal(size=(3, 3, 4, 6)).astype(np.float32)
DEPTHWISE = _RANDOM.normal(size=(3, 3, 4, 2)).astype(np.float32)
A, B, C, D = (_RANDOM.uniform(0.5, 2.0, size=8).astype(np.float32) for _ in range(4))
IMAGES = _RANDOM.normal(size=(2, 9, 9, 4)).astype(np.float32)


def conv(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.conv2d(x, KERNEL, 1, "SAME")


def depthwise(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 2, 2, 1], "VALID")


def fused(x: Any) -> Any:
    import tensorflow as tf

    n = x.shape[-1]
    y, _, _ = tf.compat.v1.nn.fused_batch_norm(x, A[:n], B[:n], C[:n], D[:n], epsilon=1e-3, is_training=False)
    return y


def spelled_out(x: Any) -> Any:
    import tensorflow as tf

    n = x.shape[-1]
    # Through a call that TensorFlow cannot compute while tracing, as reading Keras's variables is.
    mean, variance = (tf.raw_ops.Identity(input=tf.constant(values[:n])) for values in (C, D))
    return tf.nn.batch_normalization(x, mean, variance, B[:n], A[:n], 1e-3)


def two_readers(x: Any) -> Any:
    y = conv(x)
    return fused(y) + y


CASES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "fused": (lambda x: fused(conv(x)), 1),
    "fused, depthwise": (lambda x: fused(depthwise(x)), 1),
    "spelled out": (lambda x: spelled_out(conv(x)), 1),
    "spelled out, depthwise": (lambda x: spelled_out(depthwise(x)), 1),
    "behind a bias": (lambda x: fused(conv(x) + B[:6]), 1),
    "twice": (lambda x: fused(conv(fused(depthwise(x))[..., :4])), 2),
    "scalar factor": (lambda x: conv(x) * 3.0 - 1.0, 1),
    "factor on the left": (lambda x: 2.0 * conv(x), 1),
    "behind an activation": (lambda x: fused(abs(conv(x))), 0),
    "bias alone": (lambda x: conv(x) + B[:6], 0),
    "no convolution": (lambda x: fused(x), 0),
    "read twice": (two_readers, 0),
    "factor that varies over the image": (lambda x: conv(x) * np.arange(9 * 6, dtype=np.float32).reshape(9, 6), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_stay_and_what_can_be_folded_is(name: str) -> None:
    from servekit.export.fold import fold_batch_norm
    from servekit.export.graph import run_once, trace

    function, expected = CASES[name]
    traced = trace(Network(lambda images: function(images), {"images": Spec("float32", (None, 9, 9, 4))}))
    folded, count = fold_batch_norm(traced)
    assert count == expected
    before, after = (run_once(graph, {"images": IMAGES})["output"] for graph in (traced, folded))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_replaced_weights_of_a_keras_model_are_gone() -> None:
    from servekit.export import fold, graph

    written = graph.trace(network_file.keras_network(keras_model(), []).network)
    folded, count = fold.fold_batch_norm(written)
    assert count == 1

    def kernels(traced: Any) -> list[tuple[int, ...]]:
        return sorted(value.shape for value in traced.weights().values() if value.ndim == 4)

    assert kernels(folded) == kernels(written) == [(5, 5, 3, 8)]
