"""Colours put into a grey PNG, read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from servekit.export.palette import (
    COLOUR_TYPE,
    HEADER_CRC,
    chunk,
    cityscapes_palette,
    header_crc_change,
    palette,
    voc_palette,
)


@pytest.mark.parametrize("size", [(1, 1), (451, 300), (7, 4000)])
def test_a_grey_png_becomes_one_with_a_palette_by_a_byte_a_checksum_and_a_chunk(size: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 21, size[::-1]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    grey = file.getvalue()
    crc = np.frombuffer(grey[HEADER_CRC : HEADER_CRC + 4], np.uint8) ^ header_crc_change()
    header = grey[:COLOUR_TYPE] + b"\x03" + grey[COLOUR_TYPE + 1 : HEADER_CRC] + crc.tobytes()
    coloured = header + chunk(voc_palette()) + grey[HEADER_CRC + 4 :]
    Image.open(io.BytesIO(coloured)).verify()  # every checksum
    mask = Image.open(io.BytesIO(coloured))
    assert mask.mode == "P"
    assert (np.asarray(mask) == ids).all()
    assert mask.getpalette() == list(voc_palette())


def test_pascal_vocs_colours_are_those_of_its_devkit() -> None:
    colours = [tuple(voc_palette()[3 * i : 3 * i + 3]) for i in range(256)]
    assert colours[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colours[15] == (192, 128, 128)  # person
    assert colours[20] == (0, 64, 128)  # tvmonitor
    assert colours[255] == (224, 224, 192)  # the border in its annotations
    assert len(set(colours)) == 256


def test_a_palette_of_ones_own_is_filled_up_with_black() -> None:
    assert palette([(1, 2, 3)]) == bytes([1, 2, 3]) + bytes(765)
    assert len(cityscapes_palette()) == 768
    assert cityscapes_palette()[:3] == bytes([128, 64, 128])  # road
