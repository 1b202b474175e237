"""ImagePreprocessing as TensorFlow ops: equal to Pillow, bounded in memory, one broken image at a time.

Imports TensorFlow; recipes reach it through `classifier` and its siblings. Measurements are in docs/exporting.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from servekit.export.image_header import Files, either, read_heads, refuse_jpeg
from servekit.export.pillow_resize import normalise, resize_like_pillow
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.scaled_jpeg import scaled

Tensor = Any
_JPEG_MARGIN = 16
"""Decoded around the crop and cut off: libjpeg smooths colour across blocks, at an edge it cannot (5 levels)."""


def preprocess(data: Tensor, how: ImagePreprocessing) -> tuple[Tensor, Tensor]:
    """data: string [batch] → float32 [rows, height, width, 3] and valid: bool [rows], see `isolated`."""

    def exact(file: Files) -> Tensor:
        return resize_like_pillow(decode(file, how), how.height, how.width, how.resize)

    def seen(shape: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if how.crop is None:
            return tf.constant(0), tf.constant(0), shape[0], shape[1]
        top, left, side = _crop_box(shape, how.crop)
        return top, left, side, side

    def levels(file: Files) -> Tensor:
        image = scaled(file, how, seen, lambda: exact(file)) if how.scaled_jpeg else exact(file)
        return tf.cast(image, tf.uint8)

    def mapped(**known: Any) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: isolated(lambda file: levels(file._replace(**known)), files, tf.zeros(how.shape, tf.uint8))

    files = heads(data, how)
    upright_jpegs = tf.reduce_all(files.is_jpeg & (files.orientation <= 1) & ~files.may_be_cut)
    plain = ~tf.reduce_any(files.is_jpeg | files.is_webp)
    # Batches of one kind go through a function without branches: TensorFlow prepares each branch for each image.
    branches = [
        mapped(),
        mapped(is_jpeg=True, orientation=1, may_be_cut=False),
        mapped(is_jpeg=False, is_webp=False, orientation=1),
    ]
    images, valid = tf.switch_case(tf.where(upright_jpegs, 1, tf.where(plain, 2, 0)), branches)
    return normalise(tf.cast(images, tf.float32), how.mean, how.std), valid


def heads(data: Tensor, how: ImagePreprocessing) -> Files:
    """data: string [batch]"""
    return read_heads(data, how.max_pixels, upright=how.upright)


def isolated(function: Callable[[Any], Any], items: Any, otherwise: Any) -> tuple[Any, Tensor]:
    """Maps `function` over items (tensors [batch, ...], of any structure), each on its own.

    Returns its results, stacked [rows, ...], with `otherwise` (of the same structure, types and shapes) where it
    failed, and bool [rows], false there. Without it TF Serving answers every request that was merged into a batch with
    the error of one broken image, also other clients' requests. As many items run side by side as the server has
    threads for operations. An empty batch gives one failed row, because convolutions refuse none; cut the outputs to
    `[:tf.size(data)]`.
    """
    # Only a dataset can go on after an op has failed. One for all items: TensorFlow instantiates its function anew at
    # every request, so keep that small too.
    count = tf.shape(tf.nest.flatten(items)[0])[0]
    shapes = tf.nest.map_structure(lambda value: value.shape, otherwise)

    def numbered(index: Tensor, item: Any) -> tuple[Tensor, Any]:
        return index, tf.nest.map_structure(tf.ensure_shape, function(item), shapes)

    done = tf.data.Dataset.from_tensor_slices((tf.range(count), items))
    plain = tf.autograph.experimental.do_not_convert(numbered)  # no Python to rewrite, which takes seconds
    done = done.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    failed = tf.data.Dataset.from_tensors((-1, otherwise))
    all_of_them = done.ignore_errors(log_warning=False).concatenate(failed).batch(tf.cast(count, tf.int64) + 1)
    indices, values = all_of_them.with_options(_unoptimised()).get_single_element()
    last = tf.size(indices) - 1
    rows = tf.fill([tf.maximum(count, 1)], last)
    rows = tf.tensor_scatter_nd_update(rows, indices[:-1, None], tf.range(last))
    return tf.nest.map_structure(lambda value: tf.gather(value, rows), values), rows < last


def extracted(function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """The image files in them, string [batch] to string [batch]; empty, so no image, where `function` fails."""
    files, _ = isolated(function, items, tf.constant(b""))
    return files[: tf.size(items)]


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


def decode(file: Files, how: ImagePreprocessing) -> Tensor:
    """One file → RGB uint8 [rows, columns, 3], upright, cropped; an op fails for what is no image within the limits.

    JPEG equals libjpeg's accurate integer decoding, so Pillow's.
    """

    def jpeg() -> Tensor:
        shape = tf.io.extract_jpeg_shape(file.data)
        turn = None if isinstance(file.orientation, int) or not how.upright else Turn(file.orientation)
        with tf.control_dependencies(refuse_jpeg(file, shape, how.max_pixels)):
            if how.crop is None:
                image = tf.io.decode_jpeg(file.data, channels=3, dct_method="INTEGER_ACCURATE")
                return image if turn is None else turn(image)
            top, left, side = _crop_box(shape if turn is None else turn.upright_shape(shape), how.crop)
            if turn is not None:
                top, left = turn.stored_corner(top, left, side, shape)
            # The decoder stops behind the crop, and would not see that the file does.
            all_of_it, whole = file.may_be_cut, tf.reduce_max(shape)
            margin = _JPEG_MARGIN if all_of_it is False else tf.where(all_of_it, whole, _JPEG_MARGIN)
            above, before = tf.minimum(top, margin), tf.minimum(left, margin)
            below = tf.minimum(shape[0], top + side + margin)
            behind = tf.minimum(shape[1], left + side + margin)
            window = tf.stack([top - above, left - before, below - top + above, behind - left + before])
            image = tf.image.decode_and_crop_jpeg(file.data, window, channels=3, dct_method="INTEGER_ACCURATE")
            image = _cut(image, above, before, side)
            return image if turn is None else turn(image)

    def other() -> Tensor:
        image = either(file.is_webp, lambda: _decode_image(file.data, 0), lambda: _decode_image(file.data, 3))
        return image if how.crop is None else _cut(image, *_crop_box(tf.shape(image), how.crop))

    image = either(file.is_jpeg, jpeg, other)
    image.set_shape([None, None, 3])
    return image


def _cut(image: Tensor, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    return image[top : top + side, left : left + side]


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


def _decode_image(data: Tensor, channels: int) -> Tensor:
    """PNG, BMP or WebP to RGB. A WebP is refused unless it is asked for the channels it has, three or four: 0."""
    image = tf.io.decode_image(data, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels or None])
    return image if channels else image[:, :, :3]


def _crop_box(shape: Tensor, part: float) -> tuple[Tensor, Tensor, Tensor]:
    """`preprocessing.crop_box` in the graph, in float64 as Python computes."""
    height, width = shape[0], shape[1]
    side = tf.cast(tf.cast(tf.minimum(height, width), tf.float64) * part, tf.int32)
    side = tf.maximum(side, 1)
    return (height - side + 1) // 2, (width - side + 1) // 2, side
