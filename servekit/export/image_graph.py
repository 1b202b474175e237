"""ImagePreprocessing as TensorFlow ops: equal to Pillow, bounded in memory, one broken image at a time.

Imports TensorFlow; recipes reach it through `classifier` and its siblings. Measurements are in docs/exporting.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from servekit.export import image_header
from servekit.export.pillow_resize import normalise, resize_like_pillow
from servekit.export.preprocessing import ImagePreprocessing

Tensor = Any
_JPEG_MARGIN = 16
"""Decoded around the crop and cut off: libjpeg smooths colour across blocks, at an edge it cannot (5 levels)."""
PARALLEL = 8
"""Images of a batch that are decoded side by side; also bounds the memory of a batch of large ones."""


def preprocess(data: Tensor, how: ImagePreprocessing) -> Tensor:
    """data: string []. Returns float32 [height, width, 3]; errors for bytes that are no image within the limits."""
    image = resize_like_pillow(decode(data, how), how.height, how.width, how.resize)
    return normalise(image, how.mean, how.std)


def isolated(function: Callable[[Tensor], Tensor], data: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maps `function`: string [] → float32 `shape` over data: string [batch], each item on its own.

    Returns float32 [rows, *shape], zeros where `function` failed, and bool [rows], false there. Without it TF Serving
    answers every request that was merged into a batch with the error of one broken image, also other clients' requests.
    Items run in parallel and keep their order. An empty batch gives one failed row, because convolutions refuse none;
    cut the outputs to `[:tf.size(data)]`.
    """
    data = tf.cond(tf.size(data) > 0, lambda: data, lambda: tf.constant([b""]))
    specs = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.bool))
    images, valid = tf.map_fn(
        lambda item: attempted(lambda one: tf.ensure_shape(function(one), shape), item, tf.zeros(shape)),
        data,
        fn_output_signature=specs,
        parallel_iterations=PARALLEL,
    )
    return images, valid


def at_least_one_row(images: Tensor) -> Tensor:
    """float32 [batch, ...] → [max(batch, 1), ...]: TensorFlow's fused convolutions fail on an empty batch."""
    missing = tf.maximum(1 - tf.shape(images)[0], 0)
    return tf.ensure_shape(tf.pad(images, [[0, missing], *([0, 0] for _ in images.shape[1:])]), images.shape)


def attempted(function: Callable[[Tensor], Any], item: Tensor, otherwise: Any) -> tuple[Any, Tensor]:
    """function(item) and true, or `otherwise` (of the same structure and types, of any size) and false if it failed."""
    dataset = tf.data.Dataset
    # Only a dataset can go on after an op has failed. One of a single element, with tf.data's own optimisation off
    # (it would run at every request), costs nothing that can be measured beside plain tf.map_fn.
    done = dataset.from_tensors(item).map(lambda one: (function(one), tf.constant(True)))
    failed = dataset.from_tensors((otherwise, tf.constant(False)))
    first = done.ignore_errors(log_warning=False).concatenate(failed).take(1)
    value, valid = first.with_options(_unoptimised()).get_single_element()
    return value, valid


def _unoptimised() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_warm_start = False
    return options


def decode(data: Tensor, how: ImagePreprocessing) -> Tensor:
    """RGB uint8 [rows, columns, 3], upright, cropped. JPEG equals libjpeg's accurate integer decoding, so Pillow's."""

    def jpeg() -> Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        turn = Turn(image_header.jpeg_orientation(data)) if how.upright else None
        with tf.control_dependencies(image_header.refuse_jpeg(data, shape, how.max_pixels)):
            if how.crop is None:
                image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
                return image if turn is None else turn(image)
            top, left, side = _crop_box(shape if turn is None else turn.upright_shape(shape), how.crop)
            if turn is not None:
                top, left = turn.stored_corner(top, left, side, shape)
            above, before = tf.minimum(top, _JPEG_MARGIN), tf.minimum(left, _JPEG_MARGIN)
            below = tf.minimum(shape[0], top + side + _JPEG_MARGIN)
            behind = tf.minimum(shape[1], left + side + _JPEG_MARGIN)
            window = tf.stack([top - above, left - before, below - top + above, behind - left + before])
            image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
            image = tf.image.crop_to_bounding_box(image, above, before, side, side)
            return image if turn is None else turn(image)

    def other() -> Tensor:
        with tf.control_dependencies(image_header.refuse_other(data, how.max_pixels)):
            image = _decode_image(data)
        if how.crop is None:
            return image
        top, left, side = _crop_box(tf.shape(image), how.crop)
        return tf.image.crop_to_bounding_box(image, top, left, side, side)

    image = tf.cond(tf.io.is_jpeg(data), jpeg, other)
    image.set_shape([None, None, 3])
    return image


class Turn:
    """From how an image is stored to upright; `orientation`: int32 [], 1..8 as in EXIF."""

    def __init__(self, orientation: Tensor) -> None:
        def among(*values: int) -> Tensor:
            return tf.reduce_any(tf.equal(orientation, values))

        self._is_turned = orientation > 1
        self._transposed = orientation >= 5  # first; then rows and columns are reversed
        self._rows, self._columns = among(3, 4, 7, 8), among(2, 3, 6, 7)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [rows, columns, 3], as stored → upright."""

        def turned() -> Tensor:
            swapped = tf.transpose(image, tf.where(self._transposed, [1, 0, 2], [0, 1, 2]))
            return tf.raw_ops.Reverse(tensor=swapped, dims=tf.stack([self._rows, self._columns, False]))

        return tf.cond(self._is_turned, turned, lambda: image)

    def upright_shape(self, shape: Tensor) -> Tensor:
        """int32 [2 or more], rows and columns first → int32 [2]"""
        return tf.where(self._transposed, shape[1::-1], shape[:2])

    def stored_corner(self, top: Tensor, left: Tensor, side: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Of a square in the upright image: where its first row and column are in the stored one of that shape."""
        upright = self.upright_shape(shape)
        top = tf.where(self._rows, upright[0] - side - top, top)
        left = tf.where(self._columns, upright[1] - side - left, left)
        return tf.where(self._transposed, left, top), tf.where(self._transposed, top, left)


def _decode_image(data: Tensor) -> Tensor:
    """PNG, BMP or WebP to RGB. A WebP is refused unless it is asked for the channels it has, three or four."""

    def decoded(channels: int) -> Tensor:
        image = tf.io.decode_image(data, channels=channels, expand_animations=False)
        image.set_shape([None, None, channels or None])
        return image[:, :, :3]

    is_webp = tf.equal(tf.strings.substr(tf.strings.join([tf.strings.substr(data, 0, 12), bytes(12)]), 8, 4), b"WEBP")
    return tf.cond(is_webp, lambda: decoded(0), lambda: decoded(3))


def _crop_box(shape: Tensor, part: float) -> tuple[Tensor, Tensor, Tensor]:
    """`preprocessing.crop_box` in the graph, in float64 as Python computes."""
    height, width = shape[0], shape[1]
    side = tf.cast(tf.cast(tf.minimum(height, width), tf.float64) * part, tf.int32)
    side = tf.maximum(side, 1)
    return (height - side + 1) // 2, (width - side + 1) // 2, side
