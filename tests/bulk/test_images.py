"""Which files of a folder are images, in which order, in which batches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.bulk import images
from servekit.bulk.images import UnreadableImage, batches, find_images, read_image
from servekit.client.payload import PayloadError

JPEG = b"\xff\xd8\xff\xe0 and so on"


def put(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        target = folder / name.replace("__", "/").replace("_DOT_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def test_images_are_known_by_their_bytes_or_meant_by_their_name_and_come_sorted(tmp_path: Path) -> None:
    files = {"b_DOT_jpg": JPEG, "a__z": JPEG, "a__y_DOT_txt": b"text", "a__PNG_DOT_PNG": b"", "c_DOT_heic": b"ftyp"}
    put(tmp_path, **files)
    assert list(find_images(tmp_path).items()) == [("a/PNG.PNG", 0), ("a/z", len(JPEG)), ("b.jpg", 14), ("c.heic", 4)]


def test_hidden_files_and_folders_and_what_is_left_out_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, a=JPEG, _DOT_b=JPEG, _DOT_c__d=JPEG, out__e=JPEG)
    assert list(find_images(tmp_path, leave_out=[tmp_path / "out", tmp_path / "missing"])) == ["a"]


def test_a_loop_of_links_ends_and_links_to_elsewhere_are_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    put(folder, a__b=JPEG)
    put(elsewhere, c=JPEG)
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "there").symlink_to(elsewhere)
    (folder / "broken.jpg").symlink_to("nowhere")
    assert find_images(folder) == {"a/b": len(JPEG), "broken.jpg": -1, "there/c": len(JPEG)}


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find_images(tmp_path) == {}


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PayloadError, match=r"nowhere.*No such file"):
        find_images(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("data", "error"), [(b"", "an empty file"), (b"text", "no image"), (JPEG * 9, "larger than")], ids=str
)
def test_a_file_that_is_no_image_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, error: str
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 100)
    put(tmp_path, file=data)
    with pytest.raises(UnreadableImage, match=error):
        read_image(tmp_path / "file")


def test_a_file_that_went_away_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "gone.jpg")


def test_batches_are_full_unless_their_files_are_large() -> None:
    sizes = {"a": 1, "b": -1, "c": 1, "d": 31_000_000, "e": 2_000_000, "f": 90_000_000, "g": 1}
    assert list(batches(list(sizes), sizes, 2)) == [["a", "b"], ["c", "d"], ["e"], ["f"], ["g"]]
    assert list(batches([], {}, 2)) == []
