"""Pillow's Image.resize and the normalisation after it, as TensorFlow ops. Imports TensorFlow."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

Tensor = Any
Channels = tuple[float, ...]
_STRIPS = 4
"""Of rows, transposed one after the other. Eigen reads a matrix column by column: of 3 MB at once a column's
cache lines are gone before the next column wants them."""


def resize_like_pillow(image: Tensor, height: int, width: int, method: str) -> Tensor:
    """uint8 [rows, columns, 3] → float32 [height, width, 3] of whole numbers 0..255, as Pillow's Image.resize.

    `method`: bilinear, bicubic or lanczos3. Pillow works in two passes, width first, and rounds to uint8 after each.
    tf.image.resize filters both axes whatever their size, so each pass folds all else into the channels, and both
    transpositions are of plain matrices: of three dimensions they take longer than the filter.
    """
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    x = _transposed(tf.reshape(image, [rows, columns * 3]), rows)
    x = _filtered(tf.reshape(x, [columns, 3 * rows]), width, method)
    x = tf.transpose(tf.reshape(x, [width * 3, rows]))
    return tf.reshape(_filtered(x, height, method), [height, width, 3])


def _transposed(matrix: Tensor, rows: Tensor) -> Tensor:
    bounds = [rows * strip // _STRIPS for strip in range(_STRIPS + 1)]
    return tf.concat([tf.transpose(matrix[a:b]) for a, b in itertools.pairwise(bounds)], axis=1)


def _filtered(matrix: Tensor, size: int, method: str) -> Tensor:
    """[length, vectors], uint8 or float32 → float32 [size, vectors], rounded to grey levels."""
    x = tf.image.resize(matrix[None, :, None, :], (size, 1), method, antialias=True)[0, :, 0, :]
    if method != "bilinear":  # a mean; the others reach beyond the grey levels
        x = tf.clip_by_value(x, 0.0, 255.0)
    return tf.floor(x + 0.5)


def normalise(image: Tensor, mean: Channels, std: Channels) -> Tensor:
    """(image - mean) / std, one number a channel: float32 [..., 3] of the same shape.

    Equal numbers become one: arithmetic with three a pixel takes ten times as long.
    """
    return (image - _constant(mean)) / _constant(std)


def _constant(channels: Channels) -> Tensor:
    return tf.constant(channels[0] if len(set(channels)) == 1 else channels, tf.float32)
