"""What an image file says of itself before it is decoded, as TensorFlow ops. Imports TensorFlow.

Its size, its orientation, and whether TensorFlow's decoders make of it what Pillow does, in bounded time. What they do
not is refused: an op fails, and with it this one image.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any

MAX_SCANS = 64
"""Of a JPEG. Encoders write up to 20; each is a pass over all pixels that costs the sender 50 bytes."""
MAX_TEXTS = 16
"""Compressed text chunks of a PNG, each of which libpng expands to up to 8 MB, also if nobody reads them."""
PNG_EXTRA_BYTES = 1_000_000
"""By which a PNG may be larger than its pixels uncompressed; libpng also expands what follows the last pixel."""

_EXIF_WITHIN_BYTES = 65_536
_STANDARD_MASKS = b"\x00\x00\xff\x00\x00\xff\x00\x00\xff\x00\x00\x00"  # red, green, blue of a pixel read as uint32
_GREY_PALETTE = b"".join(bytes((level, level, level, 0)) for level in range(256))


def declared_pixels(data: Tensor) -> Tensor:
    """int64 []: width times height in the header of a PNG, BMP or WebP file; 0 for any other bytes.

    A GIF counts as endless: its decoder expands all frames, and those may be larger than the header says.
    """
    head = _Head(data, 32)

    def bmp_side(offset: int) -> Tensor:  # signed; a negative height means top-down rows
        value = head.number(offset, 4)
        return tf.where(value < 2**31, value, 2**32 - value)

    bits, low14 = head.number(21, 4), 0x3FFF
    cases = (  # RFC 2083, BITMAPINFOHEADER, RFC 9649
        (
            head.starts(b"\x89PNG\r\n\x1a\n"),
            head.number(16, 4, big_endian=True) * head.number(20, 4, big_endian=True),
        ),
        (head.starts(b"GIF8"), tf.constant(tf.int64.max, tf.int64)),
        (head.starts(b"BM"), bmp_side(18) * bmp_side(22)),
        (
            head.starts(b"VP8 ", 12),
            tf.bitwise.bitwise_and(head.number(26, 2), low14) * tf.bitwise.bitwise_and(head.number(28, 2), low14),
        ),
        (head.starts(b"VP8L", 12), (1 + bits % 2**14) * (1 + bits // 2**14 % 2**14)),
        (head.starts(b"VP8X", 12), (1 + head.number(24, 3)) * (1 + head.number(27, 3))),
    )
    pixels = tf.constant(0, tf.int64)
    for is_format, size in cases:
        pixels = tf.where(is_format, size, pixels)
    return pixels


def refuse_jpeg(data: Tensor, shape: Tensor, max_pixels: int) -> list[Any]:
    """Ops that fail for a JPEG that must not be decoded. `shape`: int32 [3], rows, columns and channels it claims."""
    pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
    # Photoshop and all since invert CMYK and say so in a segment of its name. TensorFlow inverts without looking.
    inverted = tf.cond(
        tf.equal(shape[2], 4),
        lambda: _count(tf.strings.substr(data, 0, _EXIF_WITHIN_BYTES), b"\xff\xee\x00\x0eAdobe") > 0,
        lambda: tf.constant(True),
    )
    return [
        _refuse_bomb(pixels, max_pixels),
        tf.debugging.Assert(inverted, ["CMYK JPEG without an Adobe segment refused"]),
        tf.debugging.Assert(_count(data, b"\xff\xda") <= MAX_SCANS, [f"JPEG of more than {MAX_SCANS} scans refused"]),
    ]


def refuse_other(data: Tensor, max_pixels: int) -> list[Any]:
    """Ops that fail for a PNG, BMP, WebP or GIF that must not be decoded."""
    pixels = declared_pixels(data)
    head = _Head(data, 66)
    good = tf.case(
        [
            (head.starts(b"\x89PNG"), lambda: _is_plain_png(data, pixels)),
            (head.starts(b"BM"), lambda: _is_plain_bmp(data, head)),
            (head.starts(b"VP8X", 12), lambda: tf.equal(head.number(20, 1) // 2 % 2, 0)),  # not animated
        ],
        default=lambda: tf.constant(True),
    )
    return [
        _refuse_bomb(pixels, max_pixels),
        tf.debugging.Assert(good, ["refused: a form of its format that is not decoded as Pillow does"]),
    ]


def _is_plain_png(data: Tensor, pixels: Tensor) -> Tensor:
    """Bounded in time: libpng expands texts, and data behind the last pixel."""
    size = tf.cast(tf.strings.length(data), tf.int64)
    texts = _count(data, b"zTXt") + _count(data, b"iTXt")
    return tf.logical_and(size <= 8 * pixels + PNG_EXTRA_BYTES, texts <= MAX_TEXTS)


def _is_plain_bmp(data: Tensor, head: _Head) -> Tensor:
    """TensorFlow takes any BMP as 8-bit grey, BGR or BGRA by its bits a pixel alone."""
    bits, compression = head.number(28, 2), head.number(30, 4)
    uncompressed = tf.equal(compression, 0)
    masks = tf.logical_and(tf.equal(compression, 3), tf.equal(head.text(54, 12), _STANDARD_MASKS))
    palette_at = 14 + tf.cast(tf.minimum(head.number(14, 4), 124), tf.int32)

    def is_grey() -> Tensor:
        return tf.equal(tf.strings.substr(data, palette_at, len(_GREY_PALETTE)), _GREY_PALETTE)

    return tf.case(
        [
            (tf.equal(bits, 8), lambda: tf.logical_and(uncompressed, is_grey())),
            (tf.equal(bits, 24), lambda: uncompressed),
            (tf.equal(bits, 32), lambda: tf.logical_or(uncompressed, masks)),
        ],
        default=lambda: tf.constant(False),
    )


def jpeg_orientation(data: Tensor) -> Tensor:
    """int32 []: how a JPEG is stored, 1..8 as in EXIF (1: upright), read from its EXIF segment; 1 without one.

    Looked for in the first 64 kB, where EXIF 2.3 wants it: as the first segment. What is broken in it counts as none.
    """
    parts = _split(tf.strings.substr(data, 0, _EXIF_WITHIN_BYTES), b"Exif\0\0", maxsplit=1)

    def read() -> Tensor:
        is_segment = tf.equal(tf.strings.substr(parts[0], -4, 2), b"\xff\xe1")
        length = tf.cast(tf.io.decode_raw(tf.strings.substr(parts[0], -2, 2), tf.uint8), tf.int32)
        inside = tf.maximum(256 * length[0] + length[1] - 8, 0)  # without itself and `Exif`
        orientation = _tiff_orientation(tf.strings.substr(parts[1], 0, inside))
        known = tf.logical_and(is_segment, tf.logical_and(orientation >= 1, orientation <= 8))
        return tf.where(known, orientation, 1)

    # Too short in front of it for a segment to start there: no JPEG wrote that.
    is_there = tf.cond(tf.size(parts) > 1, lambda: tf.strings.length(parts[0]) >= 4, lambda: tf.constant(False))
    return tf.cond(is_there, read, lambda: tf.constant(1))


def _tiff_orientation(data: Tensor) -> Tensor:
    """The value of tag 274 in the first directory of a TIFF header (TIFF 6.0), 0 without one."""
    little = tf.equal(tf.strings.substr(data, 0, 2), b"II")
    octets = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int64)
    size = tf.size(octets, tf.int64)
    octets = tf.pad(octets, [[0, 8]])

    def number(field: Tensor) -> Tensor:
        """field: int64 [..., bytes] → [...]"""
        weights = tf.constant([256**place for place in range(field.shape[-1])], tf.int64)
        return tf.reduce_sum(field * tf.where(little, weights, weights[::-1]), axis=-1)

    directory = tf.minimum(number(tf.ensure_shape(octets[4:8], [4])), size)
    entries = number(tf.ensure_shape(octets[directory : directory + 2], [2]))
    entries = tf.clip_by_value((size - directory - 2) // 12, 0, entries)
    fields = tf.reshape(octets[directory + 2 : directory + 2 + 12 * entries], [-1, 12])
    is_long = tf.equal(number(fields[:, 2:4]), 4)
    values = tf.where(is_long, number(fields[:, 8:12]), number(fields[:, 8:10]))
    is_orientation = tf.equal(number(fields[:, :2]), 274)
    return tf.cast(tf.reduce_max(tf.where(is_orientation, values, 0), axis=0), tf.int32)


class _Head:
    """The first bytes of a file, filled up with zeros."""

    def __init__(self, data: Tensor, size: int) -> None:
        self._text = tf.strings.substr(tf.strings.join([tf.strings.substr(data, 0, size), bytes(size)]), 0, size)
        self._octets = tf.cast(tf.ensure_shape(tf.io.decode_raw(self._text, tf.uint8), [size]), tf.int64)

    def text(self, offset: int, count: int) -> Tensor:
        return tf.strings.substr(self._text, offset, count)

    def starts(self, text: bytes, offset: int = 0) -> Tensor:
        return tf.equal(self.text(offset, len(text)), tf.constant(text))

    def number(self, offset: int, count: int, *, big_endian: bool = False) -> Tensor:
        """Unsigned, int64 []."""
        weights = [256**place for place in range(count)]
        octets = self._octets[offset : offset + count]
        return tf.reduce_sum(octets * tf.constant(weights[::-1] if big_endian else weights, tf.int64))


def _count(data: Tensor, text: bytes) -> Tensor:
    """How often `text` is in it, int32 []: a search in C++, a sixtieth of the time that decoding takes."""
    return tf.size(_split(data, text)) - 1


def _split(data: Tensor, text: bytes, maxsplit: int = -1) -> Tensor:
    """string [parts]"""
    return tf.raw_ops.StringSplitV2(input=data[None], sep=text, maxsplit=maxsplit).values


def _refuse_bomb(pixels: Tensor, max_pixels: int) -> Any:
    return tf.debugging.Assert(pixels <= max_pixels, [f"image of more than {max_pixels} pixels refused:", pixels])
