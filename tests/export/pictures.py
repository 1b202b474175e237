"""Image files of all sorts, good, broken and hostile, made when they are asked for."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.export.bundles import ROOT

SAMPLES = ROOT / "export" / "samples"


def photo(name: str = "chelsea.png") -> bytes:
    return (SAMPLES / name).read_bytes()


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def _chelsea() -> Image.Image:
    with Image.open(SAMPLES / "chelsea.png") as file:
        image: Image.Image = file.convert("RGB")
    return image


def cat(mode: str = "RGB") -> Image.Image:
    """chelsea.png; its alpha, in modes that have one, is its brightness."""
    image = _chelsea().copy()
    if mode.endswith("A"):
        image.putalpha(image.convert("L"))
    converted: Image.Image = image.convert(mode)
    return converted


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG: length, kind, data, CRC (RFC 2083)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, *, interlaced: bool = False) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def png(pixels: NDArray[Any], colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of uint8 or uint16 [rows, columns(, channels)], which Pillow cannot write in all of its forms.

    `colour` is PNG's colour type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA. `extra` are chunks before the pixels.
    """
    pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    # Adam7: where each pass starts, and its steps.
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = starts if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"\0" + row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right] if row.size
    )
    head = png_header(pixels.shape[1], pixels.shape[0], 8 * pixels.itemsize, colour, interlaced=interlaced)
    return b"".join([head, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def bmp(
    bits: int,
    pixels: bytes,
    *,
    compression: int = 0,
    masks: bytes = b"",
    palette: bytes = b"",
    top_down: bool = False,
) -> bytes:
    """A BMP of chelsea's size around `pixels`, whose rows are filled up to four bytes."""
    width, height = cat().size
    height = -height if top_down else height
    entries = len(palette) // 4
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 2835, 2835, entries, 0)
    start = 14 + len(info) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + masks + palette + pixels


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims a size that its data do not have."""
    data = bytearray(encode(Image.new("L", (16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@functools.cache
def noise_of_100_mb() -> bytes:
    return np.random.default_rng(0).bytes(100_000_000)


@functools.cache
def broken() -> dict[str, bytes]:
    """What is no image, or no longer one."""
    crc = bytearray(photo())
    crc[29] ^= 1  # of the header
    return {
        "garbage": b"not an image",
        "empty": b"",
        "one byte": b"\xff",
        "truncated JPEG": photo("chelsea.jpg")[:9000],
        "JPEG header only": photo("chelsea.jpg")[:400],
        "truncated WebP": photo("chelsea.webp")[:3000],
        "truncated PNG": photo()[:90_000],
        "PNG with a wrong CRC": bytes(crc),
        "PNG with corrupt pixels": photo()[:50_000] + bytes(1000) + photo()[51_000:],
        "PNG header only": png_header(10, 10),
        "TIFF": encode(cat(), "TIFF"),
        "text": ("<svg>" * 100).encode(),
        "noise": np.random.default_rng(0).bytes(1_000_000),
        "noise that starts like a PNG": b"\x89PNG\r\n\x1a\n" + np.random.default_rng(1).bytes(1000),
        "noise that starts like a JPEG": b"\xff\xd8\xff\xe0" + np.random.default_rng(2).bytes(1000),
        "noise that starts like a WebP": b"RIFF\x00\x10\x00\x00WEBPVP8 " + np.random.default_rng(3).bytes(1000),
        "noise that starts like a BMP": b"BM" + np.random.default_rng(4).bytes(1000),
    }


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that are, or say they are, more pixels than the limit."""
    large = Image.new("L", (6000, 6000))
    return {
        "PNG": encode(large, "PNG"),
        "JPEG": encode(large, "JPEG"),
        "WebP": encode(large, "WEBP"),
        "GIF": encode(large, "GIF"),
        "PNG of a claimed size": png_header(2**31 - 1, 2**31 - 1),
        "JPEG of a claimed size": jpeg_of_claimed_size(65_500, 65_500),
        "BMP of a claimed size": b"BM" + struct.pack("<IHHIIiiHHI", 200, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0),
        "GIF of a claimed size": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(10),
    }
