"""The smoke test model of TF Serving's tutorials: y = x / 2 + 2, through all three kinds of request.

    servekit export half_plus_two --version 1

Signature names and tf.Example features are those of tensorflow/serving's own saved_model_half_plus_two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from servekit.export.recipe import Check, Limit, Model, Options, Recipe, Reference, Signature, Source, Spec, example
from servekit.export.recipe import strings as string_tensor

RECIPE = Recipe(title="y = x / 2 + 2", licence="Apache-2.0", url="https://github.com/tensorflow/serving")

_EXAMPLES = {"inputs": Spec("string", (None,))}


def build(_: Options) -> Model:
    predict = Signature(lambda _, x: {"y": 0.5 * x + 2.0}, {"x": Spec("float32", (None,))})
    classify = Signature(_of_feature("x", 2.0, "scores"), _EXAMPLES, method="classify", features=("x",))
    xs = np.array([0.0, 1.0, 2.0, 5.0], np.float32)

    def checks(_: Reference) -> Sequence[Check]:
        return [Check("y", "serving_default", {"x": xs}, "y", xs / 2 + 2, Limit(max_abs=0.0))]

    return Model(
        signatures={
            "serving_default": predict,
            "classify_x_to_y": classify,
            "regress_x_to_y": _regress("x", 2.0),
            "regress_x_to_y2": _regress("x", 3.0),
            "regress_x2_to_y3": _regress("x2", 3.0),
        },
        source=Source("two numbers"),
        checks=checks,
        warmup={
            "serving_default": {"x": xs[:1]},
            "classify_x_to_y": {"inputs": string_tensor(example(x=1.0))},
            "regress_x_to_y": {"inputs": string_tensor(example(x=1.0))},
        },
    )


def _regress(feature: str, offset: float) -> Signature:
    return Signature(_of_feature(feature, offset, "outputs"), _EXAMPLES, method="regress", features=(feature,))


def _of_feature(feature: str, offset: float, output: str) -> Callable[..., dict[str, Any]]:
    def function(_: Any, inputs: Any) -> dict[str, Any]:
        import tensorflow as tf

        # As upstream, x2 may be left out of an example, x may not.
        default = [0.0] if feature == "x2" else None
        parsed = tf.io.parse_example(inputs, {feature: tf.io.FixedLenFeature([1], tf.float32, default)})
        return {output: 0.5 * parsed[feature] + offset}

    return function
