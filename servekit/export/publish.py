"""A version appears in `models/` whole or not at all, and is never replaced.

It is built in a staging folder that no server looks at, on the same file system, written through to the disk, and moved
into place by one rename. A staging folder belongs to the process that holds its lock; the next export removes those
whose owner is gone, whatever killed it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servekit.atomic import fsync_folder
from servekit.errors import ExportError
from servekit.paths import Bundle

FOLDER_MODE, FILE_MODE = 0o755, 0o644

_LOCK = ".lock"


def published_versions(bundle: Bundle, model: str) -> list[int]:
    """Versions in `models/<model>/` by TF Serving's rule (a folder whose name is a number), ascending."""
    try:
        entries = list((bundle.models / model).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        {int(entry.name) for entry in entries if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()}
    )


def refuse_overwrite(bundle: Bundle, model: str, version: int) -> None:
    """Raises ExportError if the version is there, also as an empty folder or a file."""
    published = published_versions(bundle, model)
    if version in published or (bundle.models / model / str(version)).exists():
        following = max([version, *published]) + 1
        raise ExportError(
            f"models/{model}/{version}: this version is published, and a published version is never changed",
            hint=f"the next free version is {following}; to build this one again, remove its folder first",
        )


@contextmanager
def staging(bundle: Bundle, model: str, version: int) -> Iterator[Path]:
    """An empty folder of this process, gone when the context is left. Cleans up after dead processes first."""
    _refuse_unwritable(bundle, model)
    root = staging_root(bundle, model)
    root.mkdir(parents=True, exist_ok=True)
    remove_stale(root)
    folder = root / f"{model}-{version}-{uuid.uuid4().hex[:8]}"
    lock = folder.with_name(folder.name + _LOCK)
    descriptor = _locked(lock)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _refuse_unwritable(bundle: Bundle, model: str) -> None:
    """Raises OSError now instead of after a minute of building."""
    for folder in (bundle.models / model, bundle.models):
        if folder.is_dir():
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            return


def staging_root(bundle: Bundle, model: str) -> Path:
    """`.servekit/staging`, unless the model's folder, or `models`, is another file system, onto which no rename leads.

    Either may be a mounted volume or a link to one.
    """
    if not bundle.models.is_dir():
        bundle.models.mkdir(parents=True, exist_ok=True)
        bundle.models.chmod(FOLDER_MODE)
    bundle.state.mkdir(parents=True, exist_ok=True)
    base = bundle.models / model
    target = base if base.is_dir() else bundle.models
    same = target.stat().st_dev == bundle.state.stat().st_dev
    return bundle.staging if same else target / ".staging"


def remove_stale(root: Path) -> list[str]:
    """Removes staging folders whose owner is dead; returns their names."""
    removed = []
    for lock in root.glob(f"*{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = lock.with_name(lock.name.removesuffix(_LOCK))
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
            removed.append(folder.name)
        except BlockingIOError:  # its owner lives
            continue
        finally:
            os.close(descriptor)
    return removed


def _locked(path: Path) -> int:
    """Descriptor of the file at `path`, locked; its end of life, however it comes, opens the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between the two calls a cleaner may have locked and unlinked it.
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)


def publish(folder: Path, bundle: Bundle, model: str, version: int) -> Path:
    """Writes everything in `folder` through to the disk and renames it to `models/<model>/<version>`."""
    make_readable(folder)
    fsync_tree(folder)
    base = bundle.models / model
    is_new = not base.is_dir()
    if is_new:
        base.mkdir(exist_ok=True)
        base.chmod(FOLDER_MODE)
    target = base / str(version)
    try:
        # rename replaces an empty folder, which refuse_overwrite has refused; a full one it refuses itself.
        refuse_overwrite(bundle, model, version)
        folder.rename(target)
    except OSError as error:
        if is_new:
            with contextlib.suppress(OSError):  # somebody else's version may be in it by now
                base.rmdir()
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            refuse_overwrite(bundle, model, version)
        raise
    fsync_folder(base)
    fsync_folder(bundle.models)
    return target


def make_readable(folder: Path) -> None:
    """Whatever the umask: the server may run as another user, in a container it does."""
    folder.chmod(FOLDER_MODE)
    for path in folder.rglob("*"):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)


def fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(root))
