"""A real Prometheus that scrapes one page each second."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

from tests import plain_http
from tests.conftest import free_port


class RunningPrometheus:
    def __init__(self, program: Path, folder: Path, *pages: str) -> None:
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {"job_name": "pages", "static_configs": [{"targets": [urlsplit(page).netloc for page in pages]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--scrape.discovery-reload-interval=100ms",  # instead of 5 s
                ],
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + 90
        while not self._is_ready():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return plain_http.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        return False
