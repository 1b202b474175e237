"""The images in a folder: which files are meant, and what is read of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from servekit.client.payload import PayloadError, image_format

# By name these are meant to be images: if their bytes say otherwise, that is a result to show and no file to pass over.
_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif")
)
_MAGIC_BYTES = 16

MAX_IMAGE_BYTES = 100_000_000
"""A larger file is not read: images are not that large, and several of them would fill the client's memory."""

MAX_BATCH_BYTES = 32_000_000
"""A request is closed early when its files reach this size; it is base64 and JSON on the way, several times as much."""


class UnreadableImage(Exception):
    """The text says what is wrong with one file."""


def find_images(folder: Path, *, leave_out: Collection[Path] = ()) -> dict[str, int]:
    """Size in bytes by path relative to `folder` (with `/`), sorted by path; -1 where there is no telling.

    Images are known by their first bytes, or by a name that says image. Hidden files and folders are skipped, links are
    followed, and a folder that can be reached in several ways counts once, so loops end. `leave_out` are folders
    below which nothing is looked for. Raises PayloadError for a folder that cannot be read.
    """
    found: dict[str, int] = {}
    seen = {_identity(path.stat()) for path in leave_out if path.is_dir()}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        place = folder / prefix
        try:
            identity = _identity(place.stat())
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(place) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise PayloadError(f"{place}: {error.strerror}") from None
        for entry in visible:
            name = prefix + entry.name
            if _is_folder(entry):
                waiting.append(f"{name}/")
            elif (size := _size_of_image(entry)) is not None:
                found[name] = size
    return dict(sorted(found.items()))


def read_image(path: Path) -> bytes:
    """The file's bytes, at most MAX_IMAGE_BYTES of them. Raises UnreadableImage, also for what is no image."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    if len(data) > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"larger than {MAX_IMAGE_BYTES // 1_000_000} MB")
    if image_format(data) is None:
        raise UnreadableImage("no image; JPEG, PNG, GIF, BMP or WebP is expected" if data else "an empty file")
    return data


def batches(names: Sequence[str], sizes: Mapping[str, int], count: int) -> Iterator[list[str]]:
    """In order, at most `count` names each, and no more than MAX_BATCH_BYTES unless one file alone is larger."""
    batch: list[str] = []
    size_bytes = 0
    for name in names:
        if batch and (len(batch) == count or size_bytes + sizes[name] > MAX_BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(name)
        size_bytes += max(0, sizes[name])
    if batch:
        yield batch


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size_of_image(entry: os.DirEntry[str]) -> int | None:
    """None for what is not meant to be an image."""
    named = os.path.splitext(entry.name)[1].lower() in _SUFFIXES  # noqa: PTH122 - a path object per file costs more
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        if named:
            return status.st_size
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return status.st_size if image_format(file.read(_MAGIC_BYTES)) else None
    except OSError:
        return -1 if named else None
