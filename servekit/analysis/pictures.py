"""Masks and pictures in answers: which outputs are some, and how far two are apart. Pure; files are read by Pillow."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.client.payload import image_format

_MASK_NAME = re.compile(r"mask|segment|class_map")


class NoPicture(Exception):
    """The text says why."""


class NoPillow(NoPicture):
    """Here is nothing to read pictures with."""


def is_mask(name: str, array: NDArray[Any]) -> bool:
    """Whole numbers [batch, height, width] (or ..., 1]), or files named as masks, or with a palette or one bit."""
    if array.dtype.kind in "iub":
        return _is_plane(array.shape[1:])
    if not is_image(array) or array.dtype.kind != "O":
        return False
    if _MASK_NAME.search(name.lower()):
        return True
    first = next((one for one in array.ravel().tolist() if one), b"")
    # PNG's header: width and height, then bit depth and colour type; 3 is a palette.
    return first[12:16] == b"IHDR" and (first[24:25] == b"\x01" or first[25:26] == b"\x03")


def is_image(array: NDArray[Any]) -> bool:
    """Files of images by their first bytes (some may be empty), or uint8 [batch, height, width, 3 or 4]."""
    if array.dtype.kind == "u" and array.dtype.itemsize == 1:
        return array.ndim == 4 and array.shape[3] in (3, 4)
    if array.dtype.kind != "O":
        return False
    files = [one for one in array.ravel().tolist() if one]
    return bool(files) and all(isinstance(one, bytes) and image_format(one) for one in files)


def masks_differ(stable: Any, canary: Any, least_iou: float) -> str:
    """Empty from `least_iou` on; both of one row. Raises NoPicture where stable has none."""
    pair = _pair(_mask, stable, canary)
    if isinstance(pair, str):
        return pair
    iou = mean_iou(*pair)
    return "" if iou >= least_iou else f"IoU {iou:.2f}"


def images_differ(stable: Any, canary: Any, least_psnr: float) -> str:
    """Empty from `least_psnr` dB on; both of one row. Raises NoPicture where stable has none."""
    pair = _pair(_pixels, stable, canary)
    if isinstance(pair, str):
        return pair
    found = psnr(*pair)
    return "" if found >= least_psnr else f"PSNR {found:.1f} dB"


def _pair(read: Callable[[Any], NDArray[Any]], stable: Any, canary: Any) -> tuple[NDArray[Any], NDArray[Any]] | str:
    """Both read and of one size, or why they cannot be compared. Raises NoPicture where stable has none."""
    mine = read(stable)
    try:
        other = read(canary)
    except NoPillow:
        raise
    except NoPicture as error:
        return f"canary has {error}"
    if mine.shape != other.shape:
        return f"{_size(other)} instead of {_size(mine)} pixels"
    return mine, other


def mean_iou(stable: NDArray[Any], canary: NDArray[Any]) -> float:
    """Mean, over the classes that one of both has, of common pixels divided by all pixels of the class; in [0, 1]."""
    values = []
    for one in np.union1d(stable, canary):
        mine, other = stable == one, canary == one
        values.append(np.count_nonzero(mine & other) / np.count_nonzero(mine | other))
    return float(np.mean(values)) if values else 1.0


def psnr(stable: NDArray[Any], canary: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB of grey levels 0..255; infinite for equal pictures."""
    error = float(np.mean((stable.astype(np.float64) - canary.astype(np.float64)) ** 2)) if stable.size else 0.0
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _is_plane(shape: tuple[int, ...]) -> bool:
    plane = shape[:-1] if len(shape) == 3 and shape[2] == 1 else shape
    return len(plane) == 2 and min(plane) > 1


def _mask(value: Any) -> NDArray[Any]:
    """Class ids [height, width], of a file or of an array."""
    if isinstance(value, bytes):
        with _opened(value) as image:
            # A palette's pixels are its indices, the class ids; colours stand for classes otherwise.
            pixels = np.asarray(image if image.mode in ("P", "L", "1", "I", "I;16") else image.convert("RGB"))
        if pixels.ndim == 3:
            wide = pixels.astype(np.int64)
            pixels = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        return pixels
    array = np.asarray(value)
    return array[..., 0] if array.ndim == 3 else array


def _pixels(value: Any) -> NDArray[Any]:
    """Grey levels 0..255 [height, width, 3 or 4]."""
    if not isinstance(value, bytes):
        return np.asarray(value)
    with _opened(value) as image:
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.float64)[..., None] / 257
        alpha = image.has_transparency_data
        return np.asarray(image.convert("RGBA" if alpha else "RGB"))


def _opened(data: bytes) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise NoPillow("Pillow is missing, which reads pictures: pip install pillow") from None
    if not data:
        raise NoPicture("no picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except UnidentifiedImageError:
        raise NoPicture("no picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NoPicture(f"a picture that cannot be read: {error}") from None
    return image


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}" if array.ndim > 1 else str(list(array.shape))
