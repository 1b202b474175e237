"""Colours of classes, and what makes a grey PNG of class ids a PNG with a palette.

A mask with a palette is both: its pixel values are the class ids, and it opens in colour. It is how PASCAL VOC ships
its annotations. A palette is 256 colours, bytes [768]: red, green, blue of class 0, of class 1, ...
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from servekit.export.recipe import Array

COLOURS = 256
COLOUR_TYPE = 25
"""Offset of IHDR's colour type in a PNG file: 0 is grey, 3 is a palette."""
HEADER_CRC = 29
"""Offset of IHDR's checksum, 4 bytes; the next chunk follows."""

_CITYSCAPES = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)


def voc_palette() -> bytes:
    """PASCAL VOC's colour map: the bits of the class id, dealt to red, green and blue from the highest bit down.

    >>> list(voc_palette()[45:48])
    [192, 128, 128]
    """
    colours = np.zeros((COLOURS, 3), np.uint8)
    ids = np.arange(COLOURS)
    for level in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= (((ids >> channel) & 1) << level).astype(np.uint8)
        ids >>= 3
    return colours.tobytes()


def cityscapes_palette() -> bytes:
    """Of the 19 classes that Cityscapes evaluates, by train id; the others are black."""
    return palette(_CITYSCAPES)


def palette(colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Your own colours, for class 0, 1, ...; those left out are black."""
    data = b"".join(bytes(colour) for colour in colours)
    return data.ljust(3 * COLOURS, b"\0")


def chunk(palette: bytes) -> bytes:
    """The PLTE chunk."""
    return len(palette).to_bytes(4, "big") + b"PLTE" + palette + zlib.crc32(b"PLTE" + palette).to_bytes(4, "big")


def header_crc_change() -> Array:
    """uint8 [4] to xor to IHDR's checksum when its colour type changes from 0 to 3, whatever else IHDR says.

    Of messages of one length, crc(a) ^ crc(b) depends on a ^ b alone.
    """
    grey = b"IHDR" + bytes(13)
    coloured = bytearray(grey)
    coloured[4 + 9] = 3
    return np.frombuffer((zlib.crc32(grey) ^ zlib.crc32(coloured)).to_bytes(4, "big"), np.uint8)
