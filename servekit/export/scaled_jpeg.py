"""Large JPEGs decoded at a half, a quarter or an eighth of their size, as libjpeg can from their coefficients.

As Pillow's `Image.draft`, but only the crop, which is placed to the fraction of a pixel. The scaled image stays at
least twice as large as the network's input. Imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from servekit.export.image_header import Files, either, refuse_jpeg
from servekit.export.pillow_resize import resize_height_first
from servekit.export.preprocessing import ImagePreprocessing

Tensor = Any
_RATIOS = (2, 4, 8)
_STILL = 2
"""How many times the network's input the scaled image is at least: with 1 the largest change of a probability is three
times as large."""


def scaled(
    file: Files,
    how: ImagePreprocessing,
    crop: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]],
    exact: Callable[[], Tensor],
) -> Tensor:
    """float32 [height, width, 3] in grey levels; `exact` for what is no whole upright JPEG large enough.

    `crop`: int32 [3], an image's shape → top, left, rows and columns of what the network sees.
    """
    if file.is_jpeg is False:
        return exact()
    suitable = True if file.is_jpeg is True else file.is_jpeg & (file.orientation <= 1) & ~file.may_be_cut
    shape = either(suitable, lambda: tf.io.extract_jpeg_shape(file.data), lambda: tf.zeros([3], tf.int32))
    top, left, rows, columns = crop(shape)
    room = tf.minimum(rows // (_STILL * how.height), columns // (_STILL * how.width))
    halvings = tf.reduce_sum(tf.cast(room >= tf.constant(_RATIOS), tf.int32))

    def at(ratio: int) -> Callable[[], Tensor]:
        def resized() -> Tensor:
            above, before = top // ratio, left // ratio
            below, behind = (top + rows + ratio - 1) // ratio, (left + columns + ratio - 1) // ratio
            with tf.control_dependencies(refuse_jpeg(file, shape, how.max_pixels)):
                # No margin as in the exact crop: at these scales most colour is not smoothed across blocks.
                image = tf.raw_ops.DecodeAndCropJpeg(
                    contents=file.data,
                    crop_window=tf.stack([above, before, below - above, behind - before]),
                    channels=3,
                    ratio=ratio,
                    dct_method="INTEGER_ACCURATE",
                )
            box = tf.cast(tf.stack([top - above * ratio, left - before * ratio, rows, columns]), tf.float32) / ratio
            return resize_height_first(image, how.height, how.width, how.resize, box)

        return resized

    return tf.switch_case(halvings, [exact, *(at(ratio) for ratio in _RATIOS)])
