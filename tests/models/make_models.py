"""Makes the small SavedModels beside it: `python tests/models/make_models.py` (needs TensorFlow).

They are built with the TF1 builder, because only it can set a signature's method name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

Signatures = dict[str, tuple[dict[str, Any], dict[str, Any], str]]
"""Signature name to inputs, outputs and method name."""


def save(folder: Path, build: Callable[[], Signatures]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        signatures = build()
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.utils.build_tensor_info
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                name: v1.saved_model.signature_def_utils.build_signature_def(
                    {key: info(tensor) for key, tensor in inputs.items()},
                    {key: info(tensor) for key, tensor in outputs.items()},
                    method,
                )
                for name, (inputs, outputs, method) in signatures.items()
            },
            strip_default_attrs=True,
        )
        builder.save()


def half_plus(constant: float) -> Callable[[], Signatures]:
    """`serving_default`: x float32 [n] -> y = x / 2 + constant; `classify` and `regress` read x from tf.Examples."""

    def build() -> Signatures:
        half = v1.get_variable("half", initializer=0.5)
        plus = v1.get_variable("plus", initializer=float(constant))
        x = v1.placeholder(tf.float32, [None], "x")
        y = tf.add(x * half, plus, "y")
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.parse_example(examples, {"x": v1.FixedLenFeature([1], tf.float32)})["x"]
        outputs = tf.add(parsed * half, plus)
        classes = tf.tile(tf.constant([["first", "second"]]), [tf.shape(outputs)[0], 1])
        scores = tf.concat([outputs, -outputs], axis=1)
        return {
            "serving_default": ({"x": x}, {"y": y}, PREDICT),
            "regress": ({"inputs": examples}, {"outputs": outputs}, REGRESS),
            "classify": ({"inputs": examples}, {"classes": classes, "scores": scores}, CLASSIFY),
        }

    return build


def strings() -> Signatures:
    """Answers its text twice: as UTF-8 (`text`) and as base64 over REST (`text_bytes`)."""
    text = v1.placeholder(tf.string, [None], "text")
    return {"serving_default": ({"text": text}, {"text": tf.identity(text), "text_bytes": tf.identity(text)}, PREDICT)}


def failing() -> Signatures:
    """The square root, but an error of TensorFlow's runtime when any x is negative."""
    x = v1.placeholder(tf.float32, [None], "x")
    check = v1.debugging.assert_non_negative(x, message="x must not be negative", name="check_x")
    with tf.control_dependencies([check]):
        root = tf.sqrt(x)
    return {"serving_default": ({"x": x}, {"root": root}, PREDICT)}


def sleep() -> Signatures:
    """Waits as many milliseconds as the largest of its batch says, busy on one core, then answers its input."""
    ms = v1.placeholder(tf.int32, [None], "ms")
    longest = tf.reduce_max(tf.concat([ms, [0]], axis=0))
    end = tf.timestamp() + tf.cast(longest, tf.float64) / 1000.0
    turns = v1.while_loop(lambda _: tf.timestamp() < end, lambda turn: [turn + 1], [tf.constant(0)])
    with tf.control_dependencies([turns]):
        slept = tf.identity(ms)
    return {"serving_default": ({"ms": ms}, {"slept_ms": slept}, PREDICT)}


def widths() -> Signatures:
    """The sum of each row, the width of the batch it was in, and the batch as it came (for batching with padding)."""
    ids = v1.placeholder(tf.int64, [None, None], "ids")
    shape = tf.shape(ids)
    outputs = {"sum": tf.reduce_sum(ids, axis=1), "width": tf.fill([shape[0]], shape[1]), "ids": tf.identity(ids)}
    return {"serving_default": ({"ids": ids}, outputs, PREDICT)}


def moody() -> Signatures:
    """x float32 [n] -> y = x and z = x, unless the first x says otherwise.

    -1 raises, -2 answers one row too many in z, -3 answers NaN, -4 is busy for 0.3 s, -5 answers one row for all in y.
    """
    x = v1.placeholder(tf.float32, [None], "x")
    mood = tf.cast(tf.reduce_min(x), tf.int32)

    def busy() -> Any:
        end = tf.timestamp() + 0.3
        return v1.while_loop(lambda _: tf.timestamp() < end, lambda turn: [turn + 1], [tf.constant(0)])

    waited = v1.cond(tf.equal(mood, -4), busy, lambda: tf.constant(0))
    raised = v1.debugging.Assert(tf.not_equal(mood, -1), ["the model raises"])
    with tf.control_dependencies([waited, raised]):
        value = tf.where(tf.equal(mood, -3), x * float("nan"), x)
    y = v1.cond(tf.equal(mood, -5), lambda: value[:1], lambda: tf.identity(value))
    z = v1.cond(tf.equal(mood, -2), lambda: tf.concat([value, [0.0]], 0), lambda: tf.identity(value))
    return {"serving_default": ({"x": x}, {"y": y, "z": z}, PREDICT)}


def kinds(version: int) -> Callable[[], Signatures]:
    """Each kind of answer that a canary's is compared by. Version 2 answers nearly as 1 does, 3 quite differently.

    `serving_default` looks at a picture: which colour is most of it? Version 3 takes red for blue, as a network does
    whose preprocessing has the channels the wrong way round. `picky` fails in version 3 when an x is negative, which
    `fussy` does in version 1.
    """
    slight, wrong = version == 2, version == 3

    def row_by_row(function: Callable[[Any], Any], items: Any, dtype: Any) -> Any:
        return tf.map_fn(function, items, fn_output_signature=dtype)

    def probabilities(logits: Any) -> Any:
        return tf.nn.softmax(logits * (1.1 if slight else -1.0 if wrong else 1.0))

    def ranked(scores: Any, names: list[str]) -> dict[str, Any]:
        best, ids = tf.math.top_k(scores, len(names))
        return {"probabilities": best, "class_ids": ids, "labels": tf.gather(names, ids)}

    def levels(data: Any) -> Any:
        """Mean of each channel, 0..1; -1 for what is no picture."""

        def mean() -> Any:
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[0, 1]) / 255.0

        is_png = tf.equal(tf.strings.substr(tf.strings.join([data, "   "]), 1, 3), "PNG")
        return v1.cond(is_png, mean, lambda: tf.fill([3], -1.0))

    def repainted(data: Any) -> Any:
        pixels = tf.cast(tf.io.decode_image(data, channels=3, expand_animations=False), tf.int32)
        pixels = pixels // 2 * 2 + 1 if slight else 255 - pixels if wrong else pixels
        return tf.io.encode_png(tf.cast(pixels, tf.uint8))

    def build() -> Signatures:
        pictures = v1.placeholder(tf.string, [None], "pictures")
        colours = row_by_row(levels, pictures, tf.float32)
        valid = colours[:, 0] >= 0
        scores = tf.nn.softmax(8 * (colours[:, ::-1] if wrong else colours))
        found = ranked(tf.where(valid[:, None], scores, tf.zeros_like(scores)), ["red", "green", "blue"])
        x = v1.placeholder(tf.float32, [None, 3], "x")
        planes = v1.placeholder(tf.int32, [None, None, None], "planes")
        classes = tf.pad(planes[:, 1:], [[0, 0], [0, 1], [0, 0]]) if slight else 1 - planes if wrong else planes
        files = row_by_row(
            lambda plane: tf.io.encode_png(tf.cast(plane[..., None], tf.uint8)), tf.identity(classes), tf.string
        )
        text = v1.placeholder(tf.string, [None], "text")

        def checked(when: bool) -> Any:
            if not when:
                return tf.identity(x)
            with tf.control_dependencies([v1.debugging.assert_non_negative(x, message="x must not be negative")]):
                return tf.identity(x)

        return {
            "serving_default": ({"image_bytes": pictures}, {**found, "valid": valid}, PREDICT),
            "probabilities": ({"x": x}, {"output_0": probabilities(x)}, PREDICT),
            "logits": ({"x": x}, {"logits": x * (1.1 if slight else -1.0 if wrong else 1.0)}, PREDICT),
            "class_map": ({"planes": planes}, {"class_map": tf.cast(classes, tf.uint8)}, PREDICT),
            "masks": ({"planes": planes}, {"mask_bytes": files}, PREDICT),
            "images": (
                {"input_bytes": pictures},
                {"output_bytes": row_by_row(repainted, pictures, tf.string)},
                PREDICT,
            ),
            "texts": ({"text": text}, {"text": tf.strings.upper(text) if wrong else tf.identity(text)}, PREDICT),
            "numbers": ({"x": x}, {"y": x * (1.01 if slight else 2.0 if wrong else 1.0)}, PREDICT),
            "picky": ({"x": x}, {"y": checked(wrong)}, PREDICT),
            "fussy": ({"x": x}, {"y": checked(version == 1)}, PREDICT),
        }

    return build


def main() -> None:
    here = Path(__file__).parent
    save(here / "half_plus_two" / "1", half_plus(2))
    save(here / "half_plus_two" / "2", half_plus(3))
    save(here / "strings" / "1", strings)
    save(here / "failing" / "1", failing)
    save(here / "sleep" / "1", sleep)
    save(here / "widths" / "1", widths)
    save(here / "moody" / "1", moody)
    for version in (1, 2, 3):
        save(here / "kinds" / str(version), kinds(version))


if __name__ == "__main__":
    main()
