"""serving.yaml on disk, edited: read, changed, checked, written whole; never over somebody else's edit."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.atomic import write_atomically
from servekit.canary import edit
from servekit.canary.edit import CannotEdit, Edit
from servekit.config.bundle import check_folders
from servekit.config.load import read_text, shown_path, typed
from servekit.config.models import Model
from servekit.config.section import Finding
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.errors import ServekitError
from servekit.paths import Bundle

TRIES = 5
_BOM = b"\xef\xbb\xbf"

Operation = Callable[[Serving, Model], Edit]


@dataclass(frozen=True, slots=True)
class Done:
    """What an edit did to the file: nothing, where it was so already."""

    file: str
    before: str
    after: str
    notes: tuple[str, ...]

    def diff(self) -> Iterator[str]:
        """As `diff -U1` prints it."""
        old, new = self.before.splitlines(keepends=True), self.after.splitlines(keepends=True)
        return difflib.unified_diff(old, new, f"{self.file} (before)", f"{self.file} (now)", n=1)


def change(
    bundle: Bundle, name: str, operation: Operation, forgiven: Callable[[Finding], bool] = lambda _: False
) -> Done:
    """Makes the edit to the model's entry. When the file changes meanwhile it is read again.

    `forgiven`: findings of the file as it is that the edit mends.

    Raises ConfigError for a file that is wrong, or would be (by the model folders, too); ServekitError for what makes
    no sense or cannot be written. The file is then as it was.
    """
    path = bundle.serving_yaml
    path = path.resolve() if path.is_symlink() else path  # a link stays one
    for _ in range(TRIES):
        with _locked(bundle):
            raw = _raw(path)
            text = read_text(path)
            done = _edited(bundle, text, name, operation, forgiven)
            if done.after == text:
                return done
            if _raw(path) == raw:
                _write(path, (_BOM if raw.startswith(_BOM) else b"") + done.after.encode())
                return done
    raise ServekitError(f"{shown_path(path)}: somebody else edits it all the time", hint="try again")


def _edited(
    bundle: Bundle, text: str, name: str, operation: Operation, forgiven: Callable[[Finding], bool]
) -> Done:  # fmt: skip
    file = shown_path(bundle.serving_yaml)
    source = parse(text, file)
    serving = typed(source, forgiven)
    if name not in serving.models:
        there = ", ".join(serving.models)
        problem = source.problem(("models",), f"has no model {name} (there are: {there})")
        raise ServekitError(str(problem), hint="servekit canary status")
    try:
        edited = operation(serving, serving.models[name])
    except CannotEdit as error:
        problem = source.problem(("models", name, *error.path), error.message)
        raise ServekitError(str(problem), hint=error.hint) from None
    after = edit.rewritten(text, file, name, serving, edited.model)
    checked = parse(after, file)
    check_folders(typed(checked), checked, bundle.models)  # as the controller will
    return Done(file, text, after, edited.notes)


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServekitError(f"{shown_path(path)}: cannot be read: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data, mode=path.stat().st_mode & 0o7777)
    except OSError as error:
        raise ServekitError(f"{shown_path(path)}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(bundle: Bundle) -> Iterator[None]:
    """Among servekit's own editors; a person's is seen by what it did to the file."""
    bundle.state.mkdir(parents=True, exist_ok=True)
    with (bundle.state / "serving.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
