"""The signatures of a segmenting network as TensorFlow ops. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from servekit.export.image_graph import attempted, decode, heads, isolated
from servekit.export.image_header import Files
from servekit.export.mask_graph import class_ids, full_size, mask_png, nearest, shares
from servekit.export.pillow_resize import normalise, resize_like_pillow
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.segmentation import NO_CLASS, LongerSide

Tensor = Any
How = ImagePreprocessing | LongerSide
_NO_SIZE = (0, 0)
_MASKS_AT_ONCE = 2
"""A mask of 32 million pixels takes 160 MB while it is made."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of a batch; rows of items that are no image are empty, 0 and false."""

    mask_bytes: Tensor
    """string [batch]"""
    class_map: Tensor
    """uint8 [batch, rows, columns]"""
    shares: Tensor
    """float32 [batch, classes]"""
    size: Tensor
    """int32 [batch, 2]"""
    valid: Tensor
    """bool [batch]"""

    def outputs(self, labels: list[str], top: int) -> dict[str, Tensor]:
        """By name; the `top` classes that cover most. Where fewer are in the image: "", 0 and -1."""
        values, ids = tf.math.top_k(self.shares, top)
        there = values > 0
        return {
            "mask_bytes": self.mask_bytes,
            "class_map": self.class_map,
            "labels": tf.where(there, tf.gather(tf.constant(labels), ids), ""),
            "shares": values,
            "class_ids": tf.where(there, ids, -1),
            "height": self.size[:, 0],
            "width": self.size[:, 1],
            "valid": self.valid,
        }


def segment_files(network: Any, data: Tensor, how: How, classes: int, palette: bytes) -> Found:
    """data: string [batch], image files."""
    if isinstance(how, LongerSide):
        return _one_by_one(network, data, how, classes, palette)
    return _all_at_once(network, data, how, classes, palette)


def segment_images(network: Any, images: Tensor, height: Tensor, width: Tensor, how: How) -> Tensor:
    """images: float32 [batch, rows, columns, 3] in grey levels, of which height and width (int32 [batch]) are used.

    Returns int64 [batch, rows, columns]: class ids at the images' own size, NO_CLASS outside height and width.
    """
    room = tf.shape(images)[1:3]
    sizes = tf.clip_by_value(tf.stack([height, width], axis=1), 1, room)

    def pixels(item: tuple[Tensor, Tensor]) -> Tensor:
        image, size = item
        return tf.cast(tf.clip_by_value(tf.round(image[: size[0], : size[1]]), 0.0, 255.0), tf.uint8)

    def placed(ids: Tensor, size: Tensor) -> Tensor:
        around = tf.stack([[0, room[0] - size[0]], [0, room[1] - size[1]]])
        return tf.cast(tf.pad(ids, around, constant_values=NO_CLASS), tf.int64)

    whole = tf.TensorSpec([None, None], tf.int64)
    if isinstance(how, LongerSide):

        def one(item: tuple[Tensor, Tensor]) -> Tensor:
            scaled = _scaled(pixels(item), how)
            return placed(full_size(network(images=scaled[None]), item[1]), item[1])

        return _mapped(one, (images, sizes), whole)
    normalised = tf.TensorSpec(how.shape, tf.float32)
    inputs = _mapped(lambda item: _normalised(pixels(item), how), (images, sizes), normalised)
    # Convolutions refuse an empty batch.
    some = tf.cond(tf.size(sizes) > 0, lambda: inputs, lambda: tf.zeros([1, *how.shape]))
    answers = network(images=some)[: tf.shape(images)[0]]
    return _mapped(lambda item: placed(full_size(item[0][None], item[1]), item[1]), (answers, sizes), whole)


def _all_at_once(network: Any, data: Tensor, how: ImagePreprocessing, classes: int, palette: bytes) -> Found:
    def read(file: Files) -> tuple[Tensor, Tensor]:
        image = decode(file, how)
        return _normalised(image, how), tf.shape(image)[:2]

    nothing = tf.zeros(how.shape), tf.constant(_NO_SIZE)
    (images, sizes), valid = isolated(read, heads(data, how), nothing)
    answers = network(images=tf.identity(images, name="preprocessed"))
    maps = tf.where(valid[:, None, None], class_ids(answers), tf.cast(0, tf.uint8))

    def finished(item: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        answer, ids, size, good = item
        png = tf.cond(good, lambda: mask_png(full_size(answer[None], size), palette), lambda: tf.constant(b""))
        return png, tf.where(good, shares(ids, classes), 0.0)

    mask_and_shares = (tf.TensorSpec([], tf.string), tf.TensorSpec([classes], tf.float32))
    masks, covered = _mapped(finished, (answers, maps, sizes, valid), mask_and_shares)
    count = tf.size(data)
    return Found(masks[:count], maps[:count], covered[:count], sizes[:count], valid[:count])


def _one_by_one(network: Any, data: Tensor, how: LongerSide, classes: int, palette: bytes) -> Found:
    square = (how.pixels, how.pixels)
    reading = ImagePreprocessing(*square, max_pixels=how.max_pixels)

    def read(file: Files) -> tuple[Tensor, Tensor]:
        image = decode(file, reading)
        return _scaled(image, how), tf.shape(image)[:2]

    def one(item: Files) -> Any:
        nothing = (tf.zeros((1, 1, 3), tf.uint8), tf.constant(_NO_SIZE))
        (image, size), valid = attempted(read, item, nothing)
        image.set_shape([None, None, 3])

        def segmented() -> Any:
            answer = network(images=image[None])
            ids = class_ids(answer)[0]
            return mask_png(full_size(answer, size), palette), nearest(ids, square), shares(ids, classes)

        def empty() -> Any:
            return tf.constant(b""), tf.zeros(square, tf.uint8), tf.zeros([classes])

        mask, ids, covered = tf.cond(valid, segmented, empty)
        return mask, tf.ensure_shape(ids, square), tf.ensure_shape(covered, [classes]), size, valid

    specs = (
        tf.TensorSpec([], tf.string),
        tf.TensorSpec(square, tf.uint8),
        tf.TensorSpec([classes], tf.float32),
        tf.TensorSpec([2], tf.int32),
        tf.TensorSpec([], tf.bool),
    )
    return Found(*_mapped(one, heads(data, reading), specs))


def _mapped(function: Callable[[Any], Any], items: Any, specs: Any) -> Any:
    plain = tf.autograph.experimental.do_not_convert(function)  # it needs no rewriting, which hides a mistake's line
    return tf.map_fn(plain, items, fn_output_signature=specs, parallel_iterations=_MASKS_AT_ONCE)


def _normalised(image: Tensor, how: ImagePreprocessing) -> Tensor:
    """uint8 [rows, columns, 3] → float32 [height, width, 3], as the network takes it."""
    resized = resize_like_pillow(image, how.height, how.width, how.resize)
    return normalise(resized, how.mean, how.std)


def _scaled(image: Tensor, how: LongerSide) -> Tensor:
    """uint8 [rows, columns, 3] → uint8 [*how.size(rows, columns), 3], in float64 as Python computes."""
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    ratio = tf.constant(how.pixels, tf.float64) / tf.reduce_max(sides)
    height, width = tf.unstack(tf.maximum(tf.cast(ratio * sides, tf.int32), 1))
    scaled = tf.cast(resize_like_pillow(image, height, width, how.resize), tf.uint8)
    scaled.set_shape([None, None, 3])
    return scaled
