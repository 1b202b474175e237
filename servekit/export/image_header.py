"""What an image file says of itself before it is decoded, as TensorFlow ops. Imports TensorFlow.

Its size, its orientation, and whether TensorFlow's decoders make of it what Pillow does, in bounded time. What they do
not is refused, this one file alone. Written with few ops and branches, because each signature's first request in a
server pays for them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

Tensor = Any

MAX_SCANS = 64
"""Of one channel of a JPEG. Encoders write up to 20; each is a pass over all pixels that costs the sender 50 bytes."""
MAX_TEXTS = 16
"""Compressed text chunks of a PNG, each of which libpng expands to up to 8 MB, also if nobody reads them."""
PNG_EXTRA_BYTES = 1_000_000
"""By which a PNG may be larger than its pixels uncompressed; libpng also expands what follows the last pixel."""

_SCAN = b"\xff\xda\x00\x08\x01"
"""How it begins. Two bytes less, and the videos that telephones hang onto their pictures would be full of them."""
_EXIF = b"Exif\0\0"
_MOST_HEADS, _LARGEST_HEAD = 2**16, 2**20
"""Bytes in front of a JPEG's pixels: EXIF 2.3 has its segment first, other programs a profile of half a megabyte."""
_FIRST_SCANS = tuple(b"\xff\xda\x00" + bytes((6 + 2 * channels, channels)) for channels in (1, 3, 4))
"""How the pixels begin. EXIF behind them is another picture's, such as the second one of an MPO file."""
_GREY_PALETTE = b"".join(bytes((level, level, level, 0)) for level in range(256))


class _Field(NamedTuple):
    """An unsigned number of a file's head."""

    offset: int
    size: int
    big_endian: bool = False


_HEAD_BYTES = 66
_FIELDS = {  # RFC 2083, BITMAPINFOHEADER, RFC 9649
    "magic": _Field(0, 4, big_endian=True),
    "png_width": _Field(16, 4, big_endian=True),
    "png_height": _Field(20, 4, big_endian=True),
    "riff_kind": _Field(8, 4, big_endian=True),
    "bmp_info_size": _Field(14, 4),
    "bmp_width": _Field(18, 4),
    "bmp_height": _Field(22, 4),
    "bmp_bits": _Field(28, 2),
    "bmp_compression": _Field(30, 4),
    "bmp_red_mask": _Field(54, 4),
    "bmp_green_mask": _Field(58, 4),
    "bmp_blue_mask": _Field(62, 4),
    "webp_kind": _Field(12, 4, big_endian=True),
    "webp_flags": _Field(20, 1),
    "webp_bits": _Field(21, 4),
    "webp_lossy_width": _Field(26, 2),
    "webp_lossy_height": _Field(28, 2),
    "webp_canvas_width": _Field(24, 3),
    "webp_canvas_height": _Field(27, 3),
}


class Files(NamedTuple):
    """A batch of image files, or one of it, and what their heads say. What is known of all may be Python's own."""

    data: Tensor
    """string; empty where the file must not be decoded, which no decoder accepts"""
    is_jpeg: Tensor
    """bool"""
    is_webp: Tensor
    """bool"""
    has_adobe: Tensor
    """bool: a JPEG whose CMYK is inverted. Photoshop, and all since, invert it and say so in a segment of its name"""
    orientation: Tensor
    """int32: how a JPEG is stored, 1..8 as in EXIF (1: upright)"""
    may_be_cut: Tensor
    """bool: a JPEG without its mark at the end: cut off, or with more behind it. Only decoding all of it tells"""


def either(condition: Tensor | bool, yes: Callable[[], Tensor], no: Callable[[], Tensor]) -> Tensor:
    """tf.cond, and no branch where the condition is known while the graph is built."""
    if isinstance(condition, bool):
        return yes() if condition else no()
    return tf.cond(condition, yes, no)


def read_heads(data: Tensor, max_pixels: int, *, upright: bool) -> Files:
    """data: string [batch] → Files [batch]. Fails for none. Without `upright` every orientation is 1.

    For the whole batch at once: in a function that isolates one file each of these ops would cost as much as ten here.
    """
    head = _head(data)
    is_jpeg = tf.equal(head["magic"] // 256, _number(b"\xff\xd8\xff"))
    is_png, is_bmp = _starts(head, b"\x89PNG"), _starts(head, b"BM")
    pixels = _declared_pixels(head)
    is_animated = tf.equal(head["webp_kind"], _number(b"VP8X")) & tf.equal(head["webp_flags"] // 2 % 2, 1)
    jpegs, pngs = _where(is_jpeg, data), _where(is_png, data)
    accepted = (
        (pixels <= max_pixels)
        & (_count(jpegs, _SCAN) <= MAX_SCANS)
        & (~is_png | _is_quick_png(pngs, pixels))
        & (~is_bmp | _is_plain_bmp(data, head))
        & ~is_animated
    )
    return Files(
        data=_where(accepted, data),
        is_jpeg=is_jpeg,
        is_webp=tf.equal(head["riff_kind"], _number(b"WEBP")),
        has_adobe=_count(jpegs, b"\xff\xee\x00\x0eAdobe") > 0,  # to its end: half a megabyte of profile may come first
        orientation=_orientations(jpegs) if upright else tf.ones_like(pixels, tf.int32),
        may_be_cut=tf.not_equal(_part(data, tf.maximum(tf.strings.length(data) - 2, 0), 2), b"\xff\xd9"),
    )


def refuse_jpeg(file: Files, shape: Tensor, max_pixels: int) -> list[Any]:
    """Ops that fail for a JPEG that must not be decoded. `shape`: int32 [3], rows, columns and channels it claims."""
    pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
    return [
        _refuse_unless(pixels <= max_pixels, f"image of more than {max_pixels} pixels refused"),
        # TensorFlow inverts CMYK without looking.
        _refuse_unless((shape[2] < 4) | file.has_adobe, "CMYK JPEG without an Adobe segment refused"),
    ]


def _where(wanted: Tensor, data: Tensor) -> Tensor:
    """Empty elsewhere; without a copy where all are wanted."""
    return tf.cond(tf.reduce_all(wanted), lambda: data, lambda: tf.where(wanted, data, ""))


def _orientations(jpegs: Tensor) -> Tensor:
    """string [batch] → int32 [batch]"""
    starts = tf.strings.substr(jpegs, 0, _MOST_HEADS)
    has_exif = _count(starts, _EXIF) > 0
    # No pixels, which never hold these bytes, and no EXIF yet.
    goes_on = (tf.strings.length(starts) >= _MOST_HEADS) & ~has_exif & tf.equal(_count(starts, b"\xff\xda\x00"), 0)
    heads = tf.cond(tf.reduce_any(goes_on), lambda: tf.strings.substr(jpegs, 0, _LARGEST_HEAD), lambda: starts)
    plain = tf.autograph.experimental.do_not_convert(jpeg_orientation)  # no Python to rewrite, which takes seconds
    return tf.cond(
        tf.reduce_any(has_exif | goes_on),
        lambda: tf.map_fn(plain, heads, fn_output_signature=tf.TensorSpec([], tf.int32)),
        lambda: tf.ones([tf.size(jpegs)], tf.int32),
    )


def jpeg_orientation(data: Tensor) -> Tensor:
    """int32 []: how a JPEG is stored, 1..8 as in EXIF (1: upright), read from its EXIF segment; 1 without one.

    Looked for in front of the pixels. What is broken in it counts as none.
    """
    parts = _split(tf.strings.substr(data, 0, _LARGEST_HEAD), _EXIF, maxsplit=1)

    def read() -> Tensor:
        # In front of the text: the segment's mark and its length, which counts itself and the text.
        mark = tf.cast(tf.io.decode_raw(tf.strings.substr(parts[0], -4, 4), tf.uint8), tf.int32)
        length = tf.maximum(256 * mark[2] + mark[3] - 8, 0)
        orientation = _tiff_orientation(tf.strings.substr(parts[1], 0, length))
        is_segment = tf.reduce_all(tf.equal(mark[:2], [0xFF, 0xE1]))
        pieces = sum(tf.size(_split(parts[0], scan, 1)) for scan in _FIRST_SCANS)
        is_in_front = tf.equal(pieces, len(_FIRST_SCANS))
        return tf.where(is_segment & is_in_front & (orientation >= 1) & (orientation <= 8), orientation, 1)

    # A JPEG has at least its own mark and the segment's in front of it.
    is_there = (tf.size(parts) > 1) & (tf.strings.length(parts[0]) >= 4)
    return tf.cond(is_there, read, lambda: tf.constant(1))


def _tiff_orientation(data: Tensor) -> Tensor:
    """The value of tag 274 in the first directory of a TIFF header (TIFF 6.0), int32 []; 0 or less without one."""
    is_little = tf.equal(tf.strings.substr(data, 0, 2), b"II")
    octets = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int64)
    size = tf.size(octets, tf.int64)
    octets = tf.pad(octets, [[0, 8]])

    def numbers(rows: Tensor, fields: Mapping[str, _Field], row_size: int) -> list[Any]:
        """rows: int64 [n, row_size] → one int64 [n] a field, by the file's byte order."""
        little = _weights(fields, row_size)
        big = _weights({name: field._replace(big_endian=True) for name, field in fields.items()}, row_size)
        return list(tf.unstack(tf.matmul(rows, tf.where(is_little, little, big)), axis=1))

    (directory,) = numbers(tf.reshape(octets[4:8], [1, 4]), {"offset": _Field(0, 4)}, 4)
    directory = tf.minimum(directory[0], size)
    (entries,) = numbers(tf.reshape(octets[directory : directory + 2], [1, 2]), {"count": _Field(0, 2)}, 2)
    entries = tf.maximum(tf.minimum(entries[0], (size - directory - 2) // 12), 0)
    rows = tf.reshape(octets[directory + 2 : directory + 2 + 12 * entries], [-1, 12])
    fields = {"tag": _Field(0, 2), "type": _Field(2, 2), "short": _Field(8, 2), "long": _Field(8, 4)}
    tag, kind, short, long = numbers(rows, fields, 12)
    values = tf.where(tf.equal(tag, 274), tf.where(tf.equal(kind, 4), long, short), 0)
    return tf.cast(tf.reduce_max(values), tf.int32)


def _head(data: Tensor) -> dict[str, Any]:
    """`_FIELDS` of the files, int64 [batch] each; what lies behind a file's end is zero."""
    start = tf.strings.substr(data, 0, _HEAD_BYTES)
    start = tf.strings.substr(tf.strings.join([start, bytes(_HEAD_BYTES)]), 0, _HEAD_BYTES)
    octets = tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int64)
    values = tf.unstack(tf.matmul(tf.reshape(octets, [-1, _HEAD_BYTES]), _weights(_FIELDS, _HEAD_BYTES)), axis=1)
    return dict(zip(_FIELDS, values, strict=True))


def _weights(fields: Mapping[str, _Field], size: int) -> Any:
    """int64 [size, fields]: bytes times this are the fields, all of them in one op."""
    weights = np.zeros((size, len(fields)), np.int64)
    for column, field in enumerate(fields.values()):
        powers = 256 ** np.arange(field.size, dtype=np.int64)
        weights[field.offset : field.offset + field.size, column] = powers[::-1] if field.big_endian else powers
    return tf.constant(weights)


def _number(text: bytes) -> int:
    return int.from_bytes(text, "big")


def _starts(head: Mapping[str, Any], text: bytes) -> Tensor:
    return tf.equal(head["magic"] // 256 ** (4 - len(text)), _number(text))


def _declared_pixels(head: Mapping[str, Any]) -> Tensor:
    def bmp_side(value: Tensor) -> Tensor:  # signed; a negative height means top-down rows
        return tf.minimum(value, 2**32 - value)

    bits, low14, kind = head["webp_bits"], 2**14, head["webp_kind"]
    cases = (
        # Both sides are below 2**31 or libpng refuses them; the product must not overflow.
        (_starts(head, b"\x89PNG"), tf.minimum(head["png_width"], 2**31) * tf.minimum(head["png_height"], 2**31)),
        (_starts(head, b"GIF8"), tf.constant(tf.int64.max, tf.int64)),
        (_starts(head, b"BM"), bmp_side(head["bmp_width"]) * bmp_side(head["bmp_height"])),
        (tf.equal(kind, _number(b"VP8 ")), head["webp_lossy_width"] % low14 * (head["webp_lossy_height"] % low14)),
        (tf.equal(kind, _number(b"VP8L")), (1 + bits % low14) * (1 + bits // low14 % low14)),
        (tf.equal(kind, _number(b"VP8X")), (1 + head["webp_canvas_width"]) * (1 + head["webp_canvas_height"])),
    )
    pixels = tf.constant(0, tf.int64)
    for is_format, size in reversed(cases):
        pixels = tf.where(is_format, size, pixels)
    return pixels


def _is_quick_png(data: Tensor, pixels: Tensor) -> Tensor:
    size = tf.cast(tf.strings.length(data), tf.int64)
    return (size <= 8 * pixels + PNG_EXTRA_BYTES) & (_count(data, b"TXt") <= MAX_TEXTS)  # zTXt, iTXt


def _is_plain_bmp(data: Tensor, head: Mapping[str, Any]) -> Tensor:
    """TensorFlow takes every BMP as grey, BGR or BGRA, by its bits a pixel alone."""
    bits, compression = head["bmp_bits"], head["bmp_compression"]
    is_grey_sized = tf.equal(bits, 8)
    palette_at = tf.cast(tf.where(is_grey_sized, 14 + tf.minimum(head["bmp_info_size"], 124), 0), tf.int32)
    is_grey = is_grey_sized & tf.equal(_part(data, palette_at, len(_GREY_PALETTE)), _GREY_PALETTE)
    masks = (head["bmp_red_mask"], head["bmp_green_mask"], head["bmp_blue_mask"])
    usual = tf.equal(compression, 3) & tf.reduce_all(
        tf.equal(tf.stack(masks, axis=1), [0xFF0000, 0xFF00, 0xFF]), axis=1
    )
    is_plain = tf.equal(compression, 0) & (is_grey | tf.equal(bits, 24))
    return is_plain | (tf.equal(bits, 32) & (tf.equal(compression, 0) | usual))


def _part(data: Tensor, start: Tensor, size: int) -> Tensor:
    """string [batch], from start: int32 [batch]; empty where that lies behind the end (the op itself would fail)."""
    start = tf.minimum(start, tf.strings.length(data))
    return tf.strings.substr(data, start, tf.zeros_like(start) + size)


def _count(data: Tensor, text: bytes) -> Tensor:
    """string [batch] → how often `text` is in each, int32 [batch]: a search in C++, a sixtieth of a decoder's time."""
    parts = tf.raw_ops.StringSplitV2(input=data, sep=text, maxsplit=-1)
    ones = tf.ones_like(parts.indices[:, 0], tf.int32)
    return tf.math.unsorted_segment_sum(ones, parts.indices[:, 0], tf.size(data)) - 1


def _split(data: Tensor, text: bytes, maxsplit: int = -1) -> Tensor:
    """string [] → string [parts]"""
    return tf.raw_ops.StringSplitV2(input=data[None], sep=text, maxsplit=maxsplit).values


def _refuse_unless(good: Tensor, message: str) -> Any:
    return tf.raw_ops.Assert(condition=good, data=[message])  # tf.debugging's would add two functions to the graph
