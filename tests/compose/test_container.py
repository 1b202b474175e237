"""The image's entrypoint, without an image: what it does as whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servekit.container import ensure_password

ROOT = Path(__file__).resolve().parents[2]


def test_the_password_is_made_once_and_readable_for_owner_and_group(tmp_path: Path) -> None:
    file = tmp_path / "password"
    assert ensure_password(file)
    password = file.read_text()
    assert len(password.strip()) == 32
    assert file.stat().st_mode & 0o777 == 0o440
    assert not ensure_password(file)
    assert file.read_text() == password
    other = tmp_path / "other"
    ensure_password(other)
    assert other.read_text() != password


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_becomes_the_owner_of_models_for_good(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    os.chown(models, 1234, 1235)
    code = (
        "import os, pathlib, sys; from servekit.container import become_owner\n"
        "become_owner(pathlib.Path(sys.argv[1]))\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
        "try:\n  os.setuid(0)\nexcept PermissionError:\n  print('stays')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(models)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said == "(1234, 1234, 1234) (1235, 1235, 1235) []\nstays\n"
