"""Files that are either the old one or the new one, also after a crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_atomically(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder. Text is written as UTF-8.

    A reader (a model server that polls, a container that mounts the folder) never sees half a file. The folder must be
    mounted, not the file: a renamed file stays invisible through a file mount.
    """
    write_all_atomically({path: data}, mode=mode)


def write_all_atomically(files: Mapping[Path, str | bytes], *, mode: int = 0o644) -> None:
    """Several files, each as above: all are on disk before the first is renamed, in the order given.

    A full disk or a forbidden folder therefore changes none of them.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            staged[path] = Path(temporary)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            staged[path].chmod(mode)
        for path, temporary_path in staged.items():
            temporary_path.replace(path)
    except BaseException:
        for temporary_path in staged.values():
            temporary_path.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in files}:
        fsync_folder(folder)


def fsync_folder(path: Path) -> None:
    """Makes renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
