"""Rendered files reach the disk whole and together, and only if they differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.atomic import write_all_atomically
from servekit.config.write import compare, write
from servekit.errors import ServekitError

TEXTS = {"batching.config": "a\n", "container/models.config": "b\n", "models.config": "c\n"}


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_written_and_the_folders_are_made(tmp_path: Path) -> None:
    changes = compare(TEXTS, tmp_path / "out")
    assert [change.status for change in changes] == ["created"] * 3
    write(changes)
    assert contents(tmp_path / "out") == TEXTS
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in tmp_path.rglob("*.config"))


def test_a_server_of_another_user_can_read_them_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        (tmp_path / "mine").mkdir()
        write(compare(TEXTS, tmp_path / "mine" / "config" / "rendered"))
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop("mine") == 0o700, "a folder of the user's own is left as it is"
    assert {modes.pop(name) for name in ("config", "rendered", "container")} == {0o755}
    assert set(modes.values()) == {0o644}


def test_an_unchanged_file_keeps_its_inode_and_a_changed_one_gets_another(tmp_path: Path) -> None:
    write(compare(TEXTS, tmp_path))
    before = {name: (tmp_path / name).stat().st_ino for name in TEXTS}
    changes = compare(TEXTS | {"models.config": "new\n"}, tmp_path)
    assert [change.status for change in changes] == ["unchanged", "unchanged", "changed"]
    write(changes)
    after = {name: (tmp_path / name).stat().st_ino for name in TEXTS}
    assert {name for name in TEXTS if before[name] != after[name]} == {"models.config"}


def test_one_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    write(compare(TEXTS, tmp_path))
    changes = compare({name: f"new {text}" for name, text in TEXTS.items()}, tmp_path)
    (tmp_path / "container" / "models.config").unlink()
    (tmp_path / "container").rmdir()
    (tmp_path / "container").write_text("a file where a folder should be")
    with pytest.raises(ServekitError, match="container: cannot be written"):
        write(changes)
    assert contents(tmp_path) == {
        "batching.config": "a\n",
        "models.config": "c\n",
        "container": "a file where a folder should be",
    }


def test_a_full_disk_leaves_the_old_files_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(compare(TEXTS, tmp_path))
    sync, calls = os.fsync, 0

    def full_at_the_third(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        write_all_atomically({tmp_path / name: f"new {text}" for name, text in TEXTS.items()})
    assert contents(tmp_path) == TEXTS


def test_a_folder_in_the_place_of_a_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "models.config").mkdir()
    with pytest.raises(ServekitError, match=r"models\.config: cannot be read: Is a directory"):
        compare(TEXTS, tmp_path)
