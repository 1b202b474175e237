"""Rendered texts to files: what differs, and all of it or none."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.atomic import write_all_atomically
from servekit.errors import ServekitError


@dataclass(frozen=True, slots=True)
class FileChange:
    """A rendered file as it is (None: not there) and as it should be."""

    path: Path
    before: str | None
    after: str

    @property
    def status(self) -> str:
        if self.before is None:
            return "created"
        return "unchanged" if self.before == self.after else "changed"

    def diff(self, name: str) -> Iterator[str]:
        """Unified diff, as `diff -u` prints it."""
        old = (self.before or "").splitlines(keepends=True)
        return difflib.unified_diff(old, self.after.splitlines(keepends=True), f"{name} (now)", f"{name} (rendered)")


def compare(texts: Mapping[str, str], out: Path) -> list[FileChange]:
    return [FileChange(out / name, _current(out / name), text) for name, text in texts.items()]


def write(changes: Sequence[FileChange]) -> None:
    """Writes what differs; an unchanged file keeps its inode and time. Raises ServekitError.

    Folders that it makes can be read by everybody, as the files: a server in a container is another user.
    """
    pending = {change.path: change.after for change in changes if change.status != "unchanged"}
    try:
        for path in pending:
            _make_folder(path.parent)
        write_all_atomically(pending)
    except OSError as error:
        where = error.filename or next(iter(pending))
        raise ServekitError(f"{where}: cannot be written: {error.strerror}") from error


def _make_folder(path: Path) -> None:
    """With its parents, all of them readable whatever the umask."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _current(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServekitError(f"{path}: cannot be read: {error.strerror}") from error
