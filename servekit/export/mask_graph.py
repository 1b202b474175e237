"""From a network's answer to class maps and mask files, as TensorFlow ops. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from servekit.export import palette as palettes

Tensor = Any
THRESHOLD = 0.5
"""Of a network with one score a pixel: above it the pixel is of class 1, else of class 0."""


def is_probability(answer: Tensor) -> bool:
    """Whether a network's answer [batch, height, width, ...] is one score 0..1 a pixel."""
    return bool(answer.dtype.is_floating) and (answer.shape.rank == 3 or answer.shape[-1] == 1)


def class_ids(answer: Tensor) -> Tensor:
    """A network's answer, as class ids: uint8 [batch, height, width].

    It may be scores of the classes (float [batch, height, width, classes]), the probability of class 1 (float
    [batch, height, width] or [..., 1]) or class ids already (integers of the same shapes).
    """
    if answer.shape.rank == 4 and answer.shape[-1] == 1:
        answer = answer[..., 0]
    if answer.dtype.is_floating:
        answer = tf.argmax(answer, axis=-1) if answer.shape.rank == 4 else answer > THRESHOLD
    return tf.cast(answer, tf.uint8)


def full_size(answer: Tensor, size: Tensor) -> Tensor:
    """Of one image, class ids uint8 [*size] from its answer [1, height, width, ...]; size: int32 [2].

    A probability is enlarged before it is compared with the threshold, which keeps edges smooth. Class ids are not in
    between each other: each pixel takes the nearest one's.
    """
    if is_probability(answer):
        probability = answer if answer.shape.rank == 4 else answer[..., None]
        enlarged = tf.image.resize(probability, size, "bilinear", antialias=True)
        return tf.cast(enlarged[0, :, :, 0] > THRESHOLD, tf.uint8)
    return nearest(class_ids(answer)[0], size)


def nearest(ids: Tensor, size: Tensor) -> Tensor:
    """uint8 [rows, columns] → uint8 [*size], as Pillow's NEAREST."""
    return tf.image.resize(ids[None, :, :, None], size, "nearest")[0, :, :, 0]


def shares(ids: Tensor, classes: int) -> Tensor:
    """Part of the image that each class covers: float32 [classes]."""
    flat = tf.cast(tf.reshape(ids, [-1]), tf.int32)
    counts = tf.math.bincount(flat, minlength=classes, maxlength=classes)
    return tf.cast(counts, tf.float32) / tf.cast(tf.maximum(tf.size(flat), 1), tf.float32)


def mask_png(ids: Tensor, palette: bytes) -> Tensor:
    """uint8 [height, width] → string []: a PNG whose pixels are the class ids and that shows their colours.

    TensorFlow writes grey PNGs; the palette is put in behind the header, which is told of it.
    """
    png = tf.io.encode_png(ids[:, :, None])
    crc = tf.io.decode_raw(tf.strings.substr(png, palettes.HEADER_CRC, 4), tf.uint8)
    crc = tf.bitwise.bitwise_xor(crc, tf.constant(palettes.header_crc_change()))
    every_byte = tf.constant([bytes([value]) for value in range(256)])
    behind = palettes.COLOUR_TYPE + 1
    parts = [
        tf.strings.substr(png, 0, palettes.COLOUR_TYPE),
        tf.constant(b"\x03"),
        tf.strings.substr(png, behind, palettes.HEADER_CRC - behind),
        tf.strings.reduce_join(tf.gather(every_byte, tf.cast(crc, tf.int32))),
        tf.constant(palettes.chunk(palette)),
        tf.strings.substr(png, palettes.HEADER_CRC + 4, tf.strings.length(png)),
    ]
    return tf.strings.join(parts)
