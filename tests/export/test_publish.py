from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from servekit.errors import ExportError
from servekit.export import publish
from servekit.paths import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


def built(bundle: Bundle, model: str = "m", version: int = 1, text: str = "graph") -> Path:
    """Publishes a version of one file; returns where."""
    with publish.staging(bundle, model, version) as folder:
        (folder / "version").mkdir()
        (folder / "version" / "saved_model.pb").write_text(text)
        return publish.publish(folder / "version", bundle, model, version)


def test_a_version_appears_with_its_files_and_staging_is_gone(bundle: Bundle) -> None:
    target = built(bundle)
    assert target == bundle.models / "m" / "1"
    assert (target / "saved_model.pb").read_text() == "graph"
    assert list(bundle.staging.iterdir()) == []


def test_another_user_can_read_a_version_whatever_the_umask(bundle: Bundle) -> None:
    umask = os.umask(0o077)
    try:
        target = built(bundle)
    finally:
        os.umask(umask)
    modes = [path.stat().st_mode & 0o777 for path in (target.parent, target, target / "saved_model.pb")]
    assert modes == [0o755, 0o755, 0o644]


@pytest.mark.parametrize("kind", ["version", "empty folder", "file"])
def test_a_version_is_never_replaced(bundle: Bundle, kind: str) -> None:
    target = bundle.models / "m" / "1"
    target.parent.mkdir(parents=True)
    if kind == "file":
        target.touch()
    else:
        target.mkdir()
        if kind == "version":
            (target / "saved_model.pb").write_text("old")
    before = sorted(target.rglob("*"))
    with pytest.raises(ExportError, match="models/m/1: this version is published") as caught:
        built(bundle)
    assert caught.value.hint is not None
    assert "the next free version is 2" in caught.value.hint
    assert sorted(target.rglob("*")) == before


def test_of_two_at_once_one_wins_and_the_other_is_told(bundle: Bundle) -> None:
    for round_ in range(10):
        model = f"m{round_}"
        with ThreadPoolExecutor(2) as pool:
            winners = [text for text in pool.map(_attempt, [bundle] * 2, [model] * 2, ["a", "b"]) if text]
        assert len(winners) == 1
        assert (bundle.models / model / "1" / "saved_model.pb").read_text() == winners[0]


def test_several_versions_of_one_model_at_once_are_all_published(bundle: Bundle) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: built(bundle, version=version, text=str(version)), range(1, 13)))
    assert publish.published_versions(bundle, "m") == list(range(1, 13))
    for version in range(1, 13):
        assert (bundle.models / "m" / str(version) / "saved_model.pb").read_text() == str(version)
    assert list(bundle.staging.iterdir()) == []


def _attempt(bundle: Bundle, model: str, text: str) -> str:
    try:
        built(bundle, model, text=text)
    except ExportError as error:
        return "" if "published" in error.message else f"unexpected: {error}"
    return text


def test_staging_of_a_living_export_is_left_alone(bundle: Bundle) -> None:
    with publish.staging(bundle, "m", 1) as first:
        (first / "file").touch()
        with publish.staging(bundle, "m", 1) as second:
            assert first != second
            assert (first / "file").exists()
        assert (first / "file").exists()


def test_staging_of_a_killed_export_is_removed_by_the_next(bundle: Bundle) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from servekit.export import publish
from servekit.paths import Bundle
with publish.staging(Bundle(Path(sys.argv[1])), "m", 1) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(bundle.root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = [path for path in bundle.staging.iterdir() if path.is_dir()]
    with publish.staging(bundle, "other", 5):
        assert not left.exists()
    assert list(bundle.staging.iterdir()) == []


def test_an_error_inside_cleans_up(bundle: Bundle) -> None:
    def interrupted() -> None:
        with publish.staging(bundle, "m", 1) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(bundle.staging.iterdir()) == []


def test_models_on_another_file_system_stage_there(bundle: Bundle) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == bundle.root.stat().st_dev:
        pytest.skip("no second file system here")
    volume = other / f"servekit-test-{os.getpid()}"
    volume.mkdir()
    try:
        bundle.models.symlink_to(volume)
        target = built(bundle)
        assert (target / "saved_model.pb").is_file()
        assert sorted(path.name for path in volume.iterdir()) == [".staging", "m"]
        bundle.models.unlink()
        (bundle.models / "other").parent.mkdir()
        (bundle.models / "other").symlink_to(volume / "m")  # a volume of this one model
        target = built(bundle, "other", 2)
        assert (target / "saved_model.pb").is_file()
        assert sorted(path.name for path in (volume / "m").iterdir()) == [".staging", "1", "2"]
    finally:
        subprocess.run(["rm", "-rf", str(volume)], check=True)


def test_a_disk_that_fills_at_the_end_leaves_no_empty_model(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        built(bundle)
    assert list(bundle.models.iterdir()) == []
    assert list(bundle.staging.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_built(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere but on a file system mounted read-only, for which `os.access` answers the same."""
    bundle.models.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError) as caught, publish.staging(bundle, "m", 1):
        pytest.fail("nothing may be built")
    assert caught.value.filename == str(bundle.models)


def test_published_versions_are_numbered_folders(bundle: Bundle) -> None:
    for name in ("2", "10", "latest", "1.5", "007"):
        (bundle.models / "m" / name).mkdir(parents=True)
    (bundle.models / "m" / "3").touch()
    assert publish.published_versions(bundle, "m") == [2, 7, 10]
    assert publish.published_versions(bundle, "unknown") == []
