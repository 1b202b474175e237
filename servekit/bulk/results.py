"""The results file: lines are appended whole and synced to disk, a half line of a killed run is taken away.

Every line says what was asked, so the file needs neither a header (it stays one line an image for `jq` and pandas) nor
a second file beside it that could be lost.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servekit.atomic import fsync_folder
from servekit.bulk.lines import FIRST_BYTES, Line, Question, decoded, encoded
from servekit.errors import ExitCode, ServekitError


class ResultsError(ServekitError):
    """The results file cannot be gone on with."""

    exit_code = ExitCode.USAGE


class NotWritten(ServekitError):
    """The disk is full, or the file went away."""


@dataclass(slots=True)
class Before:
    """What earlier runs left: file sizes in bytes by image, the errors of those that failed."""

    sizes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """`todo` are the images to ask about, `superseded` those of them whose old line goes away first."""

    todo: tuple[str, ...]
    superseded: frozenset[str]
    answered: int
    errors: Mapping[str, str]


def plan(found: Mapping[str, int], before: Before, *, retry_failed: bool) -> Plan:
    """Images that have a line are skipped, unless the file's size changed, or it failed and `retry_failed`."""
    done = {
        name
        for name, size in found.items()
        if before.sizes.get(name) == size and not (retry_failed and name in before.errors)
    }
    errors = {name: before.errors[name] for name in found if name in done and name in before.errors}
    todo = tuple(name for name in found if name not in done)
    return Plan(todo, frozenset(name for name in todo if name in before.sizes), len(done) - len(errors), errors)


def difference(line: Line, question: Question) -> str | None:
    """Why an image's line may not stand beside the answers to `question`; None if it may.

    Who asked by label may go on by the number of the version that answered.
    """
    asked = question.members()
    for name in ("model", "signature"):
        if line.get(name) != asked[name]:
            return f"has answers of {name} {line.get(name)}, not {asked[name]}"
    if line["version"] not in (None, question.version):
        return f"has answers of version {line['version']}; {_asked(question)} is version {question.version} now"
    if question.spec.version is None and (line.get("asked_label"), line.get("asked_version")) != (
        asked["asked_label"],
        None,
    ):
        old = f"label {line['asked_label']}" if line.get("asked_label") is not None else None
        old = old or (f"version {line['asked_version']}" if line.get("asked_version") is not None else "no label")
        return f"was asked for with {old}, not with {_asked(question)}"
    if question.spec.version is not None and line.get("asked_version") not in (None, question.spec.version):
        return f"was asked for with version {line['asked_version']}, not with {_asked(question)}"
    return None


def _asked(question: Question) -> str:
    if question.spec.version is not None:
        return f"version {question.spec.version}"
    return f"label {question.spec.version_label}" if question.spec.version_label is not None else "no label"


class Results:
    """Open for one process at a time. Not for several threads at once."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """Makes the file if needed. Raises ResultsError, also when another process has it open."""
        self.path = path.resolve()  # a link stays one when the file behind it is replaced
        try:
            self._descriptor = _locked(self.path)
            if overwrite:
                os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror}") from None

    def before(self, question: Question) -> Before:
        """Reads what is there, cuts a half line off. Raises ResultsError for lines of another question or program."""
        before, end = Before(), 0
        for number, data in enumerate(self._raw_lines(), 1):
            where = f"{self.path}:{number}"
            if not data.endswith(b"\n"):
                if not _is_half_line(data):
                    raise ResultsError(f"{where}: not a results file", hint="give another --output")
                os.ftruncate(self._descriptor, end)
                os.fsync(self._descriptor)
                break
            end += len(data)
            try:
                line = decoded(data)
            except ValueError as error:
                raise ResultsError(
                    f"{where}: not a results file: {error}", hint="give another --output, or --overwrite this one"
                ) from None
            wrong = difference(line, question)
            if wrong:
                hint = "give another --output, or --overwrite to start again"
                if line["version"] not in (None, question.version):
                    hint += f"; --version {line['version']} goes on with that version while it is served"
                raise ResultsError(f"{where}: {wrong}", hint=hint)
            before.sizes[line["file"]] = line["bytes"]
            before.errors.pop(line["file"], None)
            if line["error"] is not None:
                before.errors[line["file"]] = line["error"]
        return before

    def remove(self, names: Collection[str]) -> None:
        """Takes these images' lines out. The file is the old one or the new one, also after a crash."""
        if not names:
            return
        staged = self.path.with_name(f".{self.path.name}.new")
        try:
            descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.writelines(data for data in self._raw_lines() if decoded(data)["file"] not in names)
                file.flush()
                os.fsync(descriptor)
            staged.replace(self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise NotWritten(f"{self.path}: {error.strerror}") from None
        os.close(self._descriptor)
        self._descriptor = descriptor

    def append(self, lines: Sequence[Line]) -> None:
        """All of them are on disk when this returns, or none are and NotWritten is raised."""
        data = b"".join(encoded(line) for line in lines)
        end = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise NotWritten(f"{self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Takes the file away again if it is empty."""
        try:
            if os.fstat(self._descriptor).st_size == 0:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def _raw_lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from file


def _is_half_line(data: bytes) -> bool:
    """Also the zero bytes that some file systems leave after a power failure."""
    return data.startswith(FIRST_BYTES) or FIRST_BYTES.startswith(data) or not data.strip(b"\0")


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:  # not replaced meanwhile
                fsync_folder(path.parent)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise ResultsError(f"{path}: another `servekit predict` is writing this file") from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
