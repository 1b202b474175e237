"""serving.yaml against the model folders: what would make TF Serving wait for ever, and what it would miss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.config.models import Latest, Model, Specific, unserved_label
from servekit.config.section import INT64_MAX, Finding
from servekit.config.serving import Serving

MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")


@dataclass(frozen=True, slots=True)
class FolderFinding:
    finding: Finding
    fatal: bool
    """TF Serving would hang on it, at the start or when it reads the file again, and so would every other model."""


def folder_findings(serving: Serving, models: Path) -> Iterator[FolderFinding]:
    """In the order of serving.yaml. Looks at folders and file names only."""
    for name, model in serving.models.items():
        folder = Path(model.folder(name, models))
        for found in _of_model(name, model, folder, published_versions(folder)):
            yield FolderFinding(found.finding.under("models", name), found.fatal)


def published_versions(folder: Path) -> set[int] | None:
    """Version folders with a SavedModel in them; None where `folder` is none."""
    try:
        with os.scandir(folder) as entries:
            return {int(entry.name) for entry in entries if _is_version(entry.name) and _has_model(entry.path)}
    except OSError:
        return None


def last_written_ns(folder: Path, versions: Collection[int]) -> int:
    """When a file of the versions' folders was written or put there last, in ns since 1970; 0 without any."""
    try:
        with os.scandir(folder) as entries:
            roots = [entry.path for entry in entries if _is_version(entry.name) and int(entry.name) in versions]
    except OSError:
        return 0
    last = 0
    for root in roots:
        for path, _, names in os.walk(root):
            for place in (path, *(f"{path}/{name}" for name in names)):
                with contextlib.suppress(OSError):
                    # Not when it was modified, which `cp -p` and rsync keep.
                    last = max(last, os.stat(place).st_ctime_ns)  # noqa: PTH116
    return last


def why_unreadable(folder: Path, version: int) -> str | None:
    """The reason, for a version folder that is there and that this user may not look into; None otherwise."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _is_version(entry.name) and int(entry.name) == version]
        for path in found:
            with os.scandir(path):
                pass
            os.stat(os.path.join(path, MODEL_FILES[0]))  # noqa: PTH116, PTH118
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    return None


def served_versions(model: Model, published: set[int]) -> tuple[int, ...]:
    """Versions that the policy picks among those on disk, as TF Serving does."""
    if isinstance(model.versions, Specific):
        return tuple(version for version in model.versions.specific if version in published)
    ascending = tuple(sorted(published))
    return ascending[-model.versions.latest :] if isinstance(model.versions, Latest) else ascending


def _of_model(name: str, model: Model, folder: Path, published: set[int] | None) -> Iterator[FolderFinding]:
    shown = _short(folder)
    if not published:
        if published is None:
            what = f"{shown} cannot be read" if folder.exists() else f"{shown} does not exist"
        else:
            what = f"{shown} has no version"
        yield _fatal((), f"{what}: TF Serving would wait for it for ever", _export_hint(name, model, None))
        return
    served = served_versions(model, published)
    if not served:
        what = f"none of the versions is in {shown}: TF Serving would wait for one for ever"
        yield _fatal(("versions",), what, _export_hint(name, model, None))
        return
    for label, version in model.labels.items():
        if version not in published:
            if reason := why_unreadable(folder, version):
                what = f"points at version {version}, but {shown}/{version} cannot be read: {reason}"
                yield _fatal(("labels", label), what, f"ls -ld {shown} {shown}/{version}")
                continue
            hint = _export_hint(name, model, version)
            yield _fatal(("labels", label), f"points at version {version}, which is not in {shown}", hint)
        elif version not in served:
            yield FolderFinding(unserved_label(label, version, served, str(model.versions)), fatal=True)
    if isinstance(model.versions, Specific):
        for index, version in enumerate(model.versions.specific):
            if version not in published and version not in model.labels.values():
                if reason := why_unreadable(folder, version):
                    message = f"{shown}/{version} cannot be read: {reason}"
                    hint = f"ls -ld {shown} {shown}/{version}"
                else:
                    message = f"version {version} is not in {shown}; it will be served once it is there"
                    hint = _export_hint(name, model, version)
                yield FolderFinding(Finding(("versions", "specific", index), message, hint), fatal=False)


def _fatal(path: tuple[str | int, ...], message: str, hint: str) -> FolderFinding:
    return FolderFinding(Finding(path, message, hint), fatal=True)


def _export_hint(name: str, model: Model, version: int | None) -> str:
    if model.base_path is not None:
        return f"publish a version in {model.base_path}"
    if version is None:
        version = model.versions.specific[0] if isinstance(model.versions, Specific) else 1
    return f"servekit export {name} --version {version}"


def _is_version(name: str) -> bool:
    """TF Serving reads the name as an int64 and passes over all others; `007` is version 7."""
    return name.isascii() and name.isdecimal() and int(name) <= INT64_MAX


def _has_model(version_folder: str) -> bool:
    return any(os.path.isfile(f"{version_folder}/{file}") for file in MODEL_FILES)  # noqa: PTH113 - thousands of them


def _short(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
