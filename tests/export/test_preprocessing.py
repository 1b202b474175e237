from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from servekit.export.preprocessing import ImagePreprocessing, crop_box, reference_input, reference_pixels


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "part", "box"),
    [
        (300, 451, 224 / 256, (19, 95, 262)),
        (100, 100, 1.0, (0, 0, 100)),
        (1, 1, 0.5, (0, 0, 1)),
        (5, 1000, 0.1, (2, 500, 1)),
    ],
)
def test_the_crop_is_the_centred_square(height: int, width: int, part: float, box: tuple[int, int, int]) -> None:
    assert crop_box(height, width, part) == box


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.01, 1.0))
def test_the_crop_lies_inside_the_image_and_is_never_empty(height: int, width: int, part: float) -> None:
    top, left, side = crop_box(height, width, part)
    assert side >= 1
    assert 0 <= top <= height - side
    assert 0 <= left <= width - side


def test_mean_and_std_are_in_grey_levels() -> None:
    how = ImagePreprocessing(2, 2, mean=(127.0, 0.0, 0.0), std=(128.0, 1.0, 255.0))
    data = png(Image.new("RGB", (4, 4), (255, 7, 255)))
    np.testing.assert_allclose(reference_input(data, how)[0, 0], [1.0, 7.0, 1.0])


def test_sixteen_bit_grey_is_its_high_byte() -> None:
    data = png(Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)))
    assert reference_pixels(data, ImagePreprocessing(2, 2)).max() == 0x80
