"""Bundles of their own for exports, and one real export that all tests of a session look at."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.paths import Bundle

ROOT = Path(__file__).resolve().parents[2]


def new_bundle(root: Path) -> Bundle:
    """This repository's recipes and samples, nothing published."""
    shutil.copytree(ROOT / "export", root / "export", ignore=shutil.ignore_patterns("__pycache__"))
    return Bundle(root)


def environment(bundle: Bundle) -> dict[str, str]:
    return {**os.environ, "SERVEKIT_HOME": str(bundle.root), "PYTHONPATH": str(ROOT)}


def servekit(bundle: Bundle, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servekit", *arguments]
    return subprocess.run(
        command, env=environment(bundle), capture_output=True, text=True, check=False, cwd=bundle.root
    )


@dataclass(frozen=True)
class Exported:
    bundle: Bundle
    folder: Path
    document: Mapping[str, Any]
    """What `servekit export --json` printed."""
    stderr: str


@functools.cache
def exported_imagenet() -> Exported:
    """imagenet version 1, made by the command, once for all tests that ask."""
    folder = Path(tempfile.mkdtemp(prefix="servekit-exported-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    bundle = new_bundle(folder / "bundle")
    done = servekit(bundle, "export", "imagenet", "--version", "1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return Exported(bundle, bundle.root / document["path"], document, done.stderr)
