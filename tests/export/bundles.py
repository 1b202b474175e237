"""Bundles of their own for exports, and one real export that all tests of a run look at."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
    made_in: Path
    """The bundle's folder when it was exported; `bundle` is a copy."""


def exported_imagenet(folders: pytest.TempPathFactory) -> Exported:
    """imagenet version 1, made by the command once for all processes of a test run; each has a copy of its own."""
    own, run = folders.mktemp("imagenet"), folders.getbasetemp()
    # Side by side, pytest's processes have folders of their own in the run's.
    made = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "exported-imagenet"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "stderr").is_file():
            shutil.rmtree(made, ignore_errors=True)
            done = servekit(new_bundle(made / "bundle"), "export", "imagenet", "--version", "1", "--json")
            assert done.returncode == 0, done.stderr
            (made / "stdout").write_text(done.stdout)
            (made / "stderr").write_text(done.stderr)
    bundle = Bundle(own / "bundle")
    shutil.copytree(made / "bundle", bundle.root)
    document = json.loads((made / "stdout").read_text())
    return Exported(bundle, bundle.root / document["path"], document, (made / "stderr").read_text(), made / "bundle")
