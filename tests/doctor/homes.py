"""A bundle for the doctor to look at, with real SavedModels, and the command run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from servekit.paths import Bundle
from tests.conftest import ROOT, free_port

SERVING = """
models:
  half_plus_two:
    versions: {specific: [1, 2]}
    labels: {stable: 1, canary: 2}
server: {port: %d, rest_api_port: %d, max_num_load_retries: 0}
"""


class Home:
    """half_plus_two in two versions, configured and not yet rendered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bundle = Bundle(root)
        self.grpc_port, self.rest_port = free_port(), free_port()
        shutil.copytree(ROOT / "config" / "templates", root / "config" / "templates")
        shutil.copytree(ROOT / "tests" / "models" / "half_plus_two", self.model)
        self.configure(SERVING % (self.grpc_port, self.rest_port))

    @property
    def model(self) -> Path:
        return self.root / "models" / "half_plus_two"

    def configure(self, text: str) -> None:
        self.bundle.serving_yaml.write_text(text)

    def servekit(
        self, *arguments: str, input: bytes | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "servekit", *arguments],
            cwd=ROOT,
            env={**os.environ, "SERVEKIT_HOME": str(self.root), "COLUMNS": "200", **(environment or {})},
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, done.returncode, out, err)

    def doctor(self, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
        """The document of `servekit doctor --json`; its exit status has to agree."""
        done = self.servekit("doctor", "--json", *arguments, environment=environment)
        document: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if document["healthy"] else 1), done.stderr
        return document


def codes(document: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in document["findings"]}
