"""The real prometheus and promtool: those on PATH, or Debian's packages, unpacked once into a cache folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def prometheus_tools() -> Path:
    """The folder of both programs; without them the test is skipped and says why."""
    on_path = {Path(found).parent for name in ("prometheus", "promtool") if (found := shutil.which(name))}
    if len(on_path) == 1 and shutil.which("promtool"):
        return on_path.pop()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servekit" / "tools"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:  # two test processes, one download
        fcntl.flock(lock, fcntl.LOCK_EX)
        for packages in (["prometheus", "promtool"], ["prometheus"]):  # unstable has two packages, stable one
            got = subprocess.run(
                [ROOT / "scripts" / "debian-tools", cache / "prometheus", *packages],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            folder = Path(got.stdout.strip() or "/nonexistent")
            if got.returncode == 0 and (folder / "promtool").is_file():
                return folder
    pytest.skip(f"no prometheus and promtool: {got.stderr.strip() or 'the package has none'}")
