"""The signatures of networks that turn images into images, as TensorFlow ops. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from servekit.export.image_graph import attempted, decode, heads, preprocess
from servekit.export.image_header import Files, refuse_jpeg
from servekit.export.image_to_image import OwnSize, Values
from servekit.export.pillow_resize import normalise, resize_like_pillow
from servekit.export.preprocessing import ImagePreprocessing

Tensor = Any
_AT_ONCE = 8


def translate_files(
    network: Any, data: Tensor, how: ImagePreprocessing | OwnSize, values: Values
) -> Mapping[str, Tensor]:
    """data: string [batch], image files → output_bytes, height, width, valid [batch]."""
    if isinstance(how, OwnSize):
        return _one_by_one(network, data, how, values)
    images, valid = preprocess(data, how)
    pixels = to_pixels(network(images=tf.identity(images, name="preprocessed")), values)

    def finished(item: tuple[Tensor, Tensor]) -> Tensor:
        picture, good = item
        return tf.cond(good, lambda: tf.io.encode_png(picture), lambda: tf.constant(b""))

    files = _mapped(finished, (pixels, valid), tf.TensorSpec([], tf.string))
    height, width = (tf.where(valid, tf.shape(pixels)[axis], 0) for axis in (1, 2))
    count = tf.size(data)
    return {
        "output_bytes": files[:count],
        "height": height[:count],
        "width": width[:count],
        "valid": valid[:count],
    }


def _one_by_one(network: Any, data: Tensor, how: OwnSize, values: Values) -> Mapping[str, Tensor]:
    reading = ImagePreprocessing(1, 1, max_pixels=how.max_pixels)

    def one(item: Files) -> Any:
        image, valid = attempted(lambda file: decode(file, reading), item, tf.zeros((1, 1, 3), tf.uint8))
        image.set_shape([None, None, 3])

        def translated() -> Any:
            images = normalise(tf.cast(image, tf.float32), how.mean, how.std)[None]
            picture = to_pixels(network(images=images), values)[0]
            return tf.io.encode_png(picture), tf.shape(picture)[:2]

        file, size = tf.cond(valid, translated, lambda: (tf.constant(b""), tf.zeros([2], tf.int32)))
        return file, tf.ensure_shape(size, [2]), valid

    specs = (tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.bool))
    files, sizes, valid = _mapped(
        one, heads(data, reading), specs, 1
    )  # what an image needs is bounded for one, not for eight
    return {"output_bytes": files, "height": sizes[:, 0], "width": sizes[:, 1], "valid": valid}


def call_for_each(
    network: Any, entry: str, shape: tuple[int | None, ...], data: Tensor, how: ImagePreprocessing | None
) -> Mapping[str, Tensor]:
    """data: string [batch] → output_bytes, valid [batch]. `how` is None for a graph that decodes its image itself.

    All of the graph is inside what may fail: which of its operations refuses a broken image is its own matter. But of
    too many pixels it never sees any: `image_header` refuses those here as everywhere.
    """
    reading = how or ImagePreprocessing(1, 1)

    def given(file: Files) -> Tensor:
        if how is not None:
            image = resize_like_pillow(decode(file, how), how.height, how.width, how.resize)
            return normalise(image, how.mean, how.std)
        claimed = tf.cond(file.is_jpeg, lambda: tf.io.extract_jpeg_shape(file.data), lambda: tf.zeros([3], tf.int32))
        refused_by_its_head = tf.equal(file.data, "")
        known = tf.raw_ops.Assert(condition=~refused_by_its_head, data=["file refused"])
        with tf.control_dependencies([known, *refuse_jpeg(file, claimed, reading.max_pixels)]):
            return tf.reshape(file.data, [1] * len(shape))

    def answer(file: Files) -> Tensor:
        returned = network(**{entry: given(file)})
        (encoded,) = returned.values() if isinstance(returned, Mapping) else (returned,)
        return tf.reshape(encoded, [])

    def one(file: Files) -> Any:
        return attempted(answer, file, tf.constant(b""))

    specs = (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool))
    files, valid = _mapped(one, heads(data, reading), specs)
    return {"output_bytes": files, "valid": valid}


def to_pixels(output: Tensor, values: Values) -> Tensor:
    """float32 → uint8 of the same shape; what lies beyond black and white is cut off, not wrapped around."""
    levels = (output - values.black) * (255.0 / (values.white - values.black))
    return tf.cast(tf.clip_by_value(tf.round(levels), 0.0, 255.0), tf.uint8)


def _mapped(function: Callable[[Any], Any], items: Any, specs: Any, at_once: int = _AT_ONCE) -> Any:
    plain = tf.autograph.experimental.do_not_convert(function)  # it needs no rewriting, which hides a mistake's line
    return tf.map_fn(plain, items, fn_output_signature=specs, parallel_iterations=at_once)
