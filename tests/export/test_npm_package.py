"""Weights through the user's npm: fetched, checked, kept, and every way in which that fails."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from servekit.errors import ExportError
from servekit.export import recipes
from servekit.export.npm_package import NpmPackage, npm_files, read_members
from servekit.paths import Bundle
from tests.export.bundles import ROOT

SELFIE: NpmPackage = recipes.load(Bundle(ROOT), "segmentation").build.__globals__["_SELFIE"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "servekit"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """For npm: nobody listens there."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")


@pytest.mark.slow
def test_files_are_fetched_once_and_a_damaged_one_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = npm_files(SELFIE).values()
    assert path.is_relative_to(cache)
    data = path.read_bytes()
    monkeypatch.setenv("PATH", "")  # no npm: what is kept is enough
    assert npm_files(SELFIE) == {"selfie_segmentation.tflite": path}
    path.write_bytes(data[:1000])
    with pytest.raises(ExportError, match="its weights come through npm, which is not on PATH"):
        npm_files(SELFIE)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    npm_files(SELFIE)
    assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_another_file_than_the_recipes_is_refused_and_not_kept(cache: Path) -> None:
    other = dataclasses.replace(SELFIE, files={"selfie_segmentation.tflite": "0" * 64})
    with pytest.raises(ExportError, match="not the file that this recipe was written for"):
        npm_files(other)
    assert not list(cache.rglob("*.tflite"))


@pytest.mark.slow
def test_without_network_the_way_out_is_said(cache: Path, no_network: None) -> None:
    with pytest.raises(ExportError, match=r"selfie_segmentation@0\.1\.1675465747: cannot be downloaded: ") as caught:
        npm_files(SELFIE)
    assert "\n" not in caught.value.message
    assert (
        caught.value.hint
        == f"where there is a network: npm pack {SELFIE}; unpack it and give its weights: --source PATH"
    )


def test_without_npm_the_way_out_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match="its weights come through npm, which is not on PATH") as caught:
        npm_files(SELFIE)
    assert caught.value.hint is not None
    assert "npm pack @mediapipe/selfie_segmentation@0.1.1675465747" in caught.value.hint


def test_an_archive_is_read_without_unpacking_it(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/weights.bin")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert read_members(archive, ["weights.bin"]) == {"weights.bin": b"abc"}
    with pytest.raises(ExportError, match=r"a\.tgz: there is no file other\.bin in it"):
        read_members(archive, ["weights.bin", "other.bin"])
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(ExportError, match=r"a\.tgz: not an npm archive"):
        read_members(archive, ["weights.bin"])
