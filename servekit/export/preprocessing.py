"""How image bytes become a network's input: declared once, done twice (in the graph, and by Pillow to compare with)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Channels = tuple[float, float, float]

DEFAULT_MAX_PIXELS = 32_000_000
"""A 24 megapixel camera's picture passes; a bomb of more than 96 MB of RGB is refused by its header alone."""


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """bytes → RGB uint8 → centre crop → resize as Pillow does → (pixel - mean) / std: float32 [height, width, 3].

    `upright` turns a JPEG as its EXIF orientation says, so that the network sees what a person sees; False leaves it as
    it is stored, as pipelines do that never look at EXIF (tf.image, torchvision's ImageFolder). `crop` is the part of
    the shorter side that a centred square keeps (None: the whole image is resized). `mean` and `std` are in grey levels
    0..255. Files of more than `max_pixels` are refused before they are expanded.
    """

    height: int
    width: int
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    crop: float | None = None
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (255.0, 255.0, 255.0)
    max_pixels: int = DEFAULT_MAX_PIXELS
    upright: bool = True
    scaled_jpeg: bool = False
    """In the graph: large upright JPEGs are decoded at a fraction of their size (`servekit.export.scaled_jpeg`)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, 3)


def crop_box(height: int, width: int, part: float) -> tuple[int, int, int]:
    """Top, left and side of the centred square, as EfficientNet's evaluation has it; never empty.

    >>> crop_box(300, 451, 224 / 256)
    (19, 95, 262)
    """
    side = max(1, int(min(height, width) * part))
    return (height - side + 1) // 2, (width - side + 1) // 2, side


def reference_pixels(data: bytes, preprocessing: ImagePreprocessing) -> NDArray[np.float32]:
    """Pillow's answer in grey levels: float32 [height, width, 3], whole numbers 0..255."""
    from PIL import Image

    image = Image.fromarray(reference_rgb(data, upright=preprocessing.upright))
    if preprocessing.crop is not None:
        top, left, side = crop_box(image.height, image.width, preprocessing.crop)
        image = image.crop((left, top, left + side, top + side))
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[preprocessing.resize]
    return np.asarray(image.resize((preprocessing.width, preprocessing.height), method), np.float32)


def reference_rgb(data: bytes, *, upright: bool = True) -> NDArray[np.uint8]:
    """The whole image, decoded by Pillow: uint8 [rows, columns, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as file:
        image: Any = _eight_bits(file).convert("RGB")
        turn = _turn(file) if upright else None
    return np.asarray(image if turn is None else image.transpose(turn))


def _eight_bits(image: Any) -> Any:
    """Of 16-bit grey the high byte, as libpng does and Pillow itself for colour; its convert() would cut at 255."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _turn(file: Any) -> Any:
    """What makes a JPEG upright, None for nothing; as ImageOps.exif_transpose, which looks into XMP too."""
    from PIL import Image

    if file.format not in ("JPEG", "MPO"):  # of several pictures in one file, as telephones write them
        return None
    exif, how = Image.Exif(), Image.Transpose
    exif.load(file.info.get("exif", b""))
    turns = (
        how.FLIP_LEFT_RIGHT,
        how.ROTATE_180,
        how.FLIP_TOP_BOTTOM,
        how.TRANSPOSE,
        how.ROTATE_270,
        how.TRANSVERSE,
        how.ROTATE_90,
    )
    return dict(enumerate(turns, 2)).get(exif.get(0x0112, 1))


def enlarged(data: bytes, preprocessing: ImagePreprocessing) -> bytes:
    """The image as a JPEG large enough that `scaled_jpeg` reads it at a quarter of its size."""
    from PIL import Image

    image = Image.fromarray(reference_rgb(data, upright=preprocessing.upright))
    wanted = 9 * max(preprocessing.height, preprocessing.width) / (preprocessing.crop or 1.0)
    factor = max(1.0, wanted / min(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def reference_input(data: bytes, preprocessing: ImagePreprocessing) -> NDArray[np.float32]:
    """What the network should see for these bytes: float32 [height, width, 3]."""
    pixels = reference_pixels(data, preprocessing)
    mean, std = (np.array(channels, np.float32) for channels in (preprocessing.mean, preprocessing.std))
    image: NDArray[np.float32] = (pixels - mean) / std
    return image
