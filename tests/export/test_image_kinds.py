"""Every kind of image file: read as Pillow reads it, or refused. The table is docs/exporting.md's."""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from servekit.export.preprocessing import ImagePreprocessing, reference_input
from tests.export.pictures import bmp, bombs, broken, cat, chunk, encode, photo, png

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CROPPED = ImagePreprocessing(64, 64, "bicubic", crop=0.875, mean=(127.0,) * 3, std=(128.0,) * 3)
WHOLE = ImagePreprocessing(48, 80, "bilinear", std=(1.0,) * 3)
AS_STORED = ImagePreprocessing(48, 80, "bilinear", std=(1.0,) * 3, upright=False)


def turned_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "camera"
    return exif


def turned(orientation: int, **options: Any) -> bytes:
    return encode(cat(), "JPEG", exif=turned_exif(orientation), **options)


def with_exif(tiff: bytes) -> bytes:
    """A JPEG with this EXIF segment behind its first one, as programs write it that keep the JFIF segment."""
    data, payload = encode(cat(), "JPEG"), b"Exif\0\0" + tiff
    end = 4 + struct.unpack(">H", data[4:6])[0] - 2 + 2
    return data[:end] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[end:]


def tiff(order: str, entries: list[tuple[int, int, int]], directory: int = 8) -> bytes:
    """A TIFF header with a directory of (tag, 3 SHORT or 4 LONG, value)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    fields = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{'HH' if kind == 3 else 'I'}", *values)
        for tag, kind, value in entries
        for values in [(value, 0) if kind == 3 else (value,)]
    )
    head = (mark + struct.pack(f"{order}I", directory)).ljust(directory, b"\0")
    return head + struct.pack(f"{order}H", len(entries)) + fields + bytes(4)


def cmyk(transform: int | None) -> bytes:
    """A CMYK JPEG, whose Adobe segment says 0 (CMYK) or 2 (YCCK); None: without that segment, so not inverted."""
    data = bytearray(encode(cat("CMYK"), "JPEG"))
    start = data.index(b"\xff\xee")
    if transform is None:
        del data[start : start + 16]
    else:
        data[start + 15] = transform
    return bytes(data)


def of_two_pictures(**options: Any) -> bytes:
    """As telephones write photographs with a second picture: its depth, its brightness, the other eye's."""
    return encode(cat(), "MPO", save_all=True, append_images=[cat().rotate(180)], **options)


def behind_a_profile(data: bytes) -> bytes:
    """As Photoshop writes it: the Adobe segment follows a profile of many segments."""
    segment = b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)
    return data[:2] + 3 * segment + data[2:]


@functools.cache
def read_as_pillow_does() -> Mapping[str, bytes]:
    rgb = np.asarray(cat())
    low = np.random.default_rng(0).integers(0, 256, (*rgb.shape[:2], 4), np.uint16)
    deep = np.concatenate([rgb, rgb[..., :1]], axis=2).astype(np.uint16) << 8 | low
    few = cat().quantize(16)
    grey_palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    rows = [row.tobytes() + bytes(-row.nbytes % 4) for row in rgb[..., ::-1]]
    four = np.concatenate([rgb[::-1, :, ::-1], low[..., :1].astype(np.uint8)], axis=2).tobytes()
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    return {
        **{f"JPEG of EXIF orientation {number}": turned(number) for number in range(1, 9)},
        "progressive JPEG of EXIF orientation 6": turned(6, progressive=True),
        "JPEG with EXIF behind JFIF, big-endian": with_exif(tiff(">", [(0x0100, 4, 9), (0x0112, 3, 8)])),
        "JPEG with EXIF behind JFIF, little-endian": with_exif(tiff("<", [(0x0112, 3, 5), (0x0131, 4, 26)])),
        "JPEG with a directory far behind": with_exif(tiff("<", [(0x0112, 3, 7)], directory=600)),
        "JPEG with an orientation of four bytes": with_exif(tiff(">", [(0x0112, 4, 3)])),
        "JPEG with an unknown orientation": with_exif(tiff("<", [(0x0112, 3, 9)])),
        "JPEG without an orientation in its EXIF": with_exif(tiff("<", [(0x0100, 3, 6)])),
        "JPEG with an empty directory": with_exif(tiff("<", [])),
        "JPEG with an empty EXIF": with_exif(b""),
        "JPEG with EXIF that points nowhere": with_exif(b"II*\0\xff\xff\xff\xff"),
        "JPEG with EXIF that ends early": with_exif(tiff("<", [(0x0112, 3, 6)] * 40)[:30]),
        "JPEG with EXIF behind a large colour profile": behind_a_profile(turned(6)),
        "JPEG before another one with EXIF": encode(cat(), "JPEG") + turned(6),
        "JPEG of two pictures": of_two_pictures(),
        "JPEG of two pictures and EXIF orientation 6": of_two_pictures(exif=turned_exif(6)),
        **{f"{path.stem} JPEG": path.read_bytes() for path in sorted((Path(__file__).parent / "jpeg").glob("*.jpg"))},
        "baseline JPEG": encode(cat(), "JPEG"),
        "progressive JPEG": encode(cat(), "JPEG", progressive=True),
        "grey JPEG": encode(cat("L"), "JPEG"),
        "progressive grey JPEG": encode(cat("L"), "JPEG", progressive=True),
        "RGB JPEG": encode(cat(), "JPEG", keep_rgb=True),
        "CMYK JPEG, Adobe's": cmyk(0),
        "CMYK JPEG behind a large colour profile": behind_a_profile(cmyk(0)),
        "JPEG with a video behind it": encode(cat(), "JPEG") + np.random.default_rng(6).bytes(8_000_000),
        "YCCK JPEG, Adobe's": cmyk(2),
        "JPEG 4:4:4": encode(cat(), "JPEG", subsampling=0),
        "JPEG 4:2:2": encode(cat(), "JPEG", subsampling=1),
        "JPEG of low quality": encode(cat(), "JPEG", quality=20),
        "JPEG with restart markers": encode(cat(), "JPEG", restart_marker_blocks=4),
        "JPEG with bytes behind its end": encode(cat(), "JPEG") + b"behind" * 100,
        "small JPEG": encode(cat().resize((9, 7)), "JPEG"),
        "wide JPEG": encode(cat().resize((700, 40)), "JPEG"),
        "one-pixel JPEG": encode(cat().resize((1, 1)), "JPEG"),
        "RGB PNG": encode(cat(), "PNG"),
        "RGBA PNG": encode(cat("RGBA"), "PNG"),
        "grey PNG": encode(cat("L"), "PNG"),
        "grey PNG with alpha": encode(cat("LA"), "PNG"),
        "black and white PNG": encode(cat("1"), "PNG"),
        **{f"{bits}-bit palette PNG": encode(cat().quantize(2**bits), "PNG", bits=bits) for bits in (1, 2, 4)},
        "palette PNG": encode(cat("P"), "PNG"),
        "palette PNG with a transparent colour": encode(few, "PNG", transparency=3),
        "palette PNG with alpha": encode(few, "PNG", transparency=bytes(range(0, 160, 10))),
        "RGB PNG with a transparent colour": encode(cat(), "PNG", transparency=(100, 100, 100)),
        "grey PNG with a transparent grey": encode(cat("L"), "PNG", transparency=100),
        "16-bit RGB PNG": png(deep[..., :3], 2),
        "16-bit RGBA PNG": png(deep, 6),
        "16-bit grey PNG": png(deep[..., 0], 0),
        "16-bit grey PNG with alpha": png(deep[..., 2:], 4),
        "interlaced PNG": png(rgb, 2, interlaced=True),
        "interlaced 16-bit PNG": png(deep[..., :3], 2, interlaced=True),
        "interlaced grey PNG": png(rgb[..., 0], 0, interlaced=True),
        "PNG with gamma, background and texts": png(
            deep.astype(np.uint8), 6, chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"bKGD", bytes(6)),
            *[chunk(b"zTXt", b"Comment\0\0x\x9c\x03\x00\x00\x00\x00\x01")] * 16,
        ),
        "animated PNG": encode(cat(), "PNG", save_all=True, append_images=[cat().rotate(90)]),
        "PNG with bytes behind its end": encode(cat(), "PNG") + b"behind" * 100,
        "tall PNG": encode(cat().resize((40, 700)), "PNG"),
        "one-pixel PNG": encode(cat().resize((1, 1)), "PNG"),
        "lossy WebP": encode(cat(), "WEBP", quality=60),
        "lossless WebP": encode(cat(), "WEBP", lossless=True),
        "lossy WebP with alpha": encode(cat("RGBA"), "WEBP"),
        "lossless WebP with alpha": encode(cat("RGBA"), "WEBP", lossless=True, exact=True),
        "24-bit BMP": encode(cat(), "BMP"),
        "24-bit BMP, top row first": bmp(24, b"".join(rows), top_down=True),
        "32-bit BMP": bmp(32, four),
        "32-bit BMP with alpha": encode(cat("RGBA"), "BMP"),
        "32-bit BMP with the usual masks": bmp(32, four, compression=3, masks=masks),
        "grey BMP": encode(cat("L"), "BMP"),
        "grey BMP of our own": bmp(8, b"".join(row[::3].ljust(452, b"\0") for row in rows), palette=grey_palette),
    }  # fmt: skip


@functools.cache
def refused() -> Mapping[str, bytes]:
    """Good files, which Pillow reads. TensorFlow's decoders do not, or make something else of them."""
    return {
        "CMYK JPEG that is not inverted": cmyk(None),
        "GIF": encode(cat(), "GIF"),
        "animated GIF": encode(cat(), "GIF", save_all=True, append_images=[cat().rotate(90)]),
        "animated WebP": encode(cat(), "WEBP", save_all=True, append_images=[cat().rotate(90)]),
        "palette BMP": encode(cat("P"), "BMP"),
        "black and white BMP": encode(cat("1"), "BMP"),
        "16-bit BMP": bmp(16, bytes(904 * 300)),
        "32-bit BMP with masks of its own": bmp(
            32, bytes(451 * 4 * 300), compression=3, masks=struct.pack("<III", 0xFF000000, 0xFF0000, 0xFF00)
        ),
        "run-length BMP": bmp(8, (b"\xff\1" + b"\xc4\1" + b"\0\0") * 300 + b"\0\1", compression=1, palette=bytes(1024)),
        "TIFF": encode(cat(), "TIFF"),
        "ICO": encode(cat(), "ICO"),
        "JPEG 2000": encode(cat(), "JPEG2000"),
        "AVIF": encode(cat(), "AVIF"),
    }


@functools.cache
def session_of(how: ImagePreprocessing) -> Callable[[Any], Any]:
    import tensorflow as tf

    from servekit.export.image_graph import preprocess

    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.string, [None])
        outputs = preprocess(data, how)
    session = tf.compat.v1.Session(graph=graph)
    return lambda items: session.run(outputs, {data: items})


def asked(items: list[bytes], how: ImagePreprocessing) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    pixels, valid = session_of(how)(np.array([*items, None], object)[:-1])
    return pixels, valid


@pytest.mark.parametrize("how", [CROPPED, WHOLE, AS_STORED], ids=["cropped", "whole", "as stored"])
def test_every_kind_of_image_becomes_what_pillow_makes_of_it(how: ImagePreprocessing) -> None:
    kinds = read_as_pillow_does()
    pixels, valid = asked(list(kinds.values()), how)
    assert [kind for kind, is_valid in zip(kinds, valid, strict=True) if not is_valid] == []
    for kind, ours in zip(kinds, pixels, strict=True):
        levels = np.abs(ours - reference_input(kinds[kind], how)) * how.std[0]
        assert levels.max() <= 1.01, kind
        assert levels.mean() < 0.2, kind  # enlarged to twice their size, halves are rounded to either side


def test_the_reference_is_upright_as_image_viewers_are() -> None:
    for number in range(1, 9):
        data = turned(number)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert upright is not None
        expected = np.asarray(upright.resize((80, 48), Image.Resampling.BILINEAR), np.float32)
        np.testing.assert_array_equal(reference_input(data, WHOLE), expected)


def test_what_would_be_read_otherwise_is_refused() -> None:
    kinds = refused()
    _, valid = asked(list(kinds.values()), CROPPED)
    assert [kind for kind, is_valid in zip(kinds, valid, strict=True) if is_valid] == []
    for kind, data in kinds.items():
        assert reference_input(data, CROPPED).shape == CROPPED.shape, kind  # Pillow can


def test_files_that_would_take_minutes_to_read_are_refused() -> None:
    """Small files; a scan of a JPEG is a pass over all pixels, texts of a PNG are expanded though nobody reads them."""
    large = encode(Image.new("L", (5600, 5600)), "JPEG", progressive=True)
    last_scan = large[large.rindex(b"\xff\xda") : -2]
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(7_900_000), 9))
    rgb = np.zeros((10, 10, 3), np.uint8)
    slow = {
        "JPEG of 100 scans": large[:-2] + last_scan * 100 + b"\xff\xd9",
        "PNG of 17 texts": png(rgb, 2, *[text] * 17),
        "PNG with a long tail of pixels": png(rgb, 2, chunk(b"zzZz", bytes(1_100_000))),
    }
    _, valid = asked(list(slow.values()), CROPPED)
    assert dict(zip(slow, valid.tolist(), strict=True)) == dict.fromkeys(slow, False)
    _, valid = asked([photo()], CROPPED)
    assert valid.all()


def test_a_file_alone_is_read_as_among_files_of_other_kinds() -> None:
    """Batches of one kind take a way of their own through the graph."""
    kinds = {**read_as_pillow_does(), **refused()}
    together, valid_together = asked(list(kinds.values()), CROPPED)
    for index, (kind, data) in enumerate(kinds.items()):
        alone, valid = asked([data, data], CROPPED)
        assert valid.tolist() == [valid_together[index]] * 2, kind
        if valid_together[index]:
            np.testing.assert_array_equal(alone, [together[index]] * 2, err_msg=kind)


SCALED = dataclasses.replace(CROPPED, scaled_jpeg=True)


@pytest.mark.parametrize("how", [SCALED, dataclasses.replace(WHOLE, scaled_jpeg=True)], ids=["cropped", "whole"])
def test_large_jpegs_are_decoded_at_a_fraction_of_their_size_and_nearly_equal(how: ImagePreprocessing) -> None:
    for side, ratio in ((300, 2), (600, 4), (1200, 8), (1203, 8)):
        large = cat().resize((side + 97, side), Image.Resampling.LANCZOS)
        for data in (encode(large, "JPEG", quality=90), encode(large.convert("L"), "JPEG", progressive=True)):
            pixels, valid = asked([data], how)
            levels = np.abs(pixels[0] - reference_input(data, how)) * how.std[0]
            assert valid.all()
            assert 0 < levels.mean() < 1, ratio
            assert levels.max() < 30, ratio


def test_beside_scaled_jpegs_all_else_is_read_and_refused_as_ever() -> None:
    kinds = {**read_as_pillow_does(), **refused(), **broken(), **bombs()}
    exact, valid = asked(list(kinds.values()), CROPPED)
    scaled, scaled_valid = asked(list(kinds.values()), SCALED)
    assert dict(zip(kinds, scaled_valid.tolist(), strict=True)) == dict(zip(kinds, valid.tolist(), strict=True))
    for index, kind in enumerate(kinds):
        levels = np.abs(scaled[index] - exact[index]) * SCALED.std[0]
        assert levels.mean() < (1.5 if "JPEG" in kind else 1e-6), kind
    for index in np.flatnonzero(~valid).tolist():
        _, alone = asked([list(kinds.values())[index]], SCALED)
        assert not alone.any(), list(kinds)[index]


@pytest.mark.parametrize("how", [CROPPED, SCALED, WHOLE], ids=["cropped", "scaled", "whole"])
def test_a_jpeg_that_ends_behind_the_crop_is_refused_all_the_same(how: ImagePreprocessing) -> None:
    """Pillow refuses it too. The decoder stops where the crop does, and would not see it."""
    tall = encode(cat().rotate(90, expand=True).resize((600, 900)), "JPEG", quality=90)
    kinds = {"as it is": tall, "more behind it": tall + b"a video"} | {
        f"{end} bytes too short": tall[:-end] for end in (1, 2, 100, len(tall) // 10)
    }
    together, valid = asked(list(kinds.values()), how)
    assert [kind for kind, is_valid in zip(kinds, valid, strict=True) if is_valid] == ["as it is", "more behind it"]
    for data in list(kinds.values())[2:]:
        assert not asked([data, data], how)[1].any()  # nothing else in its batch
        with pytest.raises(OSError, match="truncated"):
            reference_input(data, how)
    for data in list(kinds.values())[:2]:
        alone, _ = asked([data], how)
        assert np.abs(alone[0] - together[0]).mean() * how.std[0] < 1
