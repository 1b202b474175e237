"""ImagePreprocessing as TensorFlow ops: equal to Pillow, bounded in memory, one broken image at a time.

Imports TensorFlow; recipes reach it through `classifier` and its siblings. Measurements are in docs/exporting.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from servekit.export.preprocessing import ImagePreprocessing

Tensor = Any
_JPEG_MARGIN = 16
"""Decoded around the crop and cut off: libjpeg smooths colour across blocks, at an edge it cannot (5 levels)."""
PARALLEL = 8
"""Images of a batch that are decoded side by side; also bounds the memory of a batch of large ones."""


def preprocess(data: Tensor, how: ImagePreprocessing) -> Tensor:
    """data: string []. Returns float32 [height, width, 3]; errors for bytes that are no image within the limits."""
    image = resize_like_pillow(decode(data, how), how.height, how.width, how.resize)
    return (image - tf.constant(how.mean)) / tf.constant(how.std)


def isolated(function: Callable[[Tensor], Tensor], data: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maps `function`: string [] → float32 `shape` over data: string [batch], each item on its own.

    Returns float32 [rows, *shape], zeros where `function` failed, and bool [rows], false there. Without it TF Serving
    answers every request that was merged into a batch with the error of one broken image, also other clients' requests.
    Items run in parallel and keep their order. An empty batch gives one failed row, because convolutions refuse none;
    cut the outputs to `[:tf.size(data)]`.
    """
    dataset = tf.data.Dataset

    def one(item: Tensor) -> Any:
        # Only a dataset can go on after an op has failed. One of a single element, with tf.data's own optimisation off
        # (it would run at every request), costs nothing that can be measured beside plain tf.map_fn.
        done = dataset.from_tensors(item).map(lambda one: (tf.ensure_shape(function(one), shape), tf.constant(True)))
        failed = dataset.from_tensors((tf.zeros(shape), tf.constant(False)))
        first = done.ignore_errors(log_warning=False).concatenate(failed).take(1)
        return first.with_options(_unoptimised()).get_single_element()

    data = tf.cond(tf.size(data) > 0, lambda: data, lambda: tf.constant([b""]))
    specs = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.bool))
    images, valid = tf.map_fn(one, data, fn_output_signature=specs, parallel_iterations=PARALLEL)
    return images, valid


def _unoptimised() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_warm_start = False
    return options


def decode(data: Tensor, how: ImagePreprocessing) -> Tensor:
    """RGB uint8 [rows, columns, 3], cropped. JPEG equals libjpeg's (and so Pillow's) accurate integer decoding."""

    def jpeg() -> Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        with tf.control_dependencies([_refuse_bomb(tf.reduce_prod(tf.cast(shape[:2], tf.int64)), how.max_pixels)]):
            if how.crop is None:
                return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            top, left, side = _crop_box(shape, how.crop)
            above, before = tf.minimum(top, _JPEG_MARGIN), tf.minimum(left, _JPEG_MARGIN)
            below = tf.minimum(shape[0], top + side + _JPEG_MARGIN)
            behind = tf.minimum(shape[1], left + side + _JPEG_MARGIN)
            window = tf.stack([top - above, left - before, below - top + above, behind - left + before])
            image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.image.crop_to_bounding_box(image, above, before, side, side)

    def other() -> Tensor:
        with tf.control_dependencies([_refuse_bomb(declared_pixels(data), how.max_pixels)]):
            image = _decode_image(data)
        if how.crop is None:
            return image
        top, left, side = _crop_box(tf.shape(image), how.crop)
        return tf.image.crop_to_bounding_box(image, top, left, side, side)

    image = tf.cond(tf.io.is_jpeg(data), jpeg, other)
    image.set_shape([None, None, 3])
    return image


def _decode_image(data: Tensor) -> Tensor:
    """PNG, BMP or WebP to RGB. A WebP is refused unless it is asked for the channels it has, three or four."""

    def decoded(channels: int) -> Tensor:
        image = tf.io.decode_image(data, channels=channels, expand_animations=False)
        image.set_shape([None, None, channels or None])
        return image[:, :, :3]

    is_webp = tf.equal(tf.strings.substr(_head(data), 8, 4), b"WEBP")
    return tf.cond(is_webp, lambda: decoded(0), lambda: decoded(3))


def resize_like_pillow(image: Tensor, height: int, width: int, method: str) -> Tensor:
    """uint8 [rows, columns, 3] → float32 [height, width, 3] of whole numbers 0..255, as Pillow's Image.resize.

    Pillow works in two passes, width first, and rounds to uint8 after each. tf.image.resize filters both axes whatever
    their size, so each pass folds the other axis into the channels: same pixels, more than twice as fast.
    """
    rows = tf.shape(image)[0]
    x = tf.reshape(tf.transpose(image, (1, 0, 2)), [1, -1, 1, rows * 3])
    x = _to_grey_levels(tf.image.resize(x, (width, 1), method, antialias=True))
    x = tf.transpose(tf.reshape(x, [width, rows, 3]), (1, 0, 2))
    x = tf.reshape(x, [1, rows, 1, width * 3])
    x = _to_grey_levels(tf.image.resize(x, (height, 1), method, antialias=True))
    return tf.reshape(x, [height, width, 3])


def declared_pixels(data: Tensor) -> Tensor:
    """int64 []: width times height in the header of a PNG, BMP or WebP file; 0 for any other bytes.

    A GIF counts as endless: its decoder expands all frames, and those may be larger than the header says.
    """
    head = _head(data)
    byte = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int64)

    def starts(text: bytes, offset: int = 0) -> Tensor:
        return tf.equal(tf.strings.substr(head, offset, len(text)), tf.constant(text))

    def number(offset: int, count: int, *, big_endian: bool = False) -> Tensor:
        powers = [256**i for i in range(count)]
        return tf.reduce_sum(
            byte[offset : offset + count] * tf.constant(powers[::-1] if big_endian else powers, tf.int64)
        )

    def bmp_side(offset: int) -> Tensor:  # signed; a negative height means top-down rows
        value = number(offset, 4)
        return tf.where(value < 2**31, value, 2**32 - value)

    bits, low14 = number(21, 4), 0x3FFF
    cases = (  # RFC 2083, BITMAPINFOHEADER, RFC 9649
        (starts(b"\x89PNG\r\n\x1a\n"), number(16, 4, big_endian=True) * number(20, 4, big_endian=True)),
        (starts(b"GIF8"), tf.constant(tf.int64.max, tf.int64)),
        (starts(b"BM"), bmp_side(18) * bmp_side(22)),
        (
            starts(b"VP8 ", 12),
            tf.bitwise.bitwise_and(number(26, 2), low14) * tf.bitwise.bitwise_and(number(28, 2), low14),
        ),
        (starts(b"VP8L", 12), (1 + bits % 2**14) * (1 + bits // 2**14 % 2**14)),
        (starts(b"VP8X", 12), (1 + number(24, 3)) * (1 + number(27, 3))),
    )
    pixels = tf.constant(0, tf.int64)
    for is_format, size in cases:
        pixels = tf.where(is_format, size, pixels)
    return pixels


def _head(data: Tensor) -> Tensor:
    """The first 32 bytes, filled up with zeros."""
    return tf.strings.substr(tf.strings.join([tf.strings.substr(data, 0, 32), bytes(32)]), 0, 32)


def _refuse_bomb(pixels: Tensor, max_pixels: int) -> Any:
    return tf.debugging.Assert(pixels <= max_pixels, [f"image of more than {max_pixels} pixels refused:", pixels])


def _crop_box(shape: Tensor, part: float) -> tuple[Tensor, Tensor, Tensor]:
    """`preprocessing.crop_box` in the graph, in float64 as Python computes."""
    height, width = shape[0], shape[1]
    side = tf.cast(tf.cast(tf.minimum(height, width), tf.float64) * part, tf.int32)
    side = tf.maximum(side, 1)
    return (height - side + 1) // 2, (width - side + 1) // 2, side


def _to_grey_levels(image: Tensor) -> Tensor:
    return tf.clip_by_value(tf.floor(image + 0.5), 0.0, 255.0)
