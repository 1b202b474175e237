"""Processes of the monitoring tests: exporter, controller, the real Prometheus with this bundle's configuration."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests import plain_http
from tests.canary.conftest import Stack

ROOT = Path(__file__).resolve().parents[2]


class Exporter:
    """`servekit exporter` with these arguments on a port of 127.0.0.1."""

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        self.address = f"127.0.0.1:{port}"
        self.log = folder / "exporter.log"
        command = [sys.executable, "-m", "servekit", "exporter", f"--listen={self.address}", *arguments]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
        wait_for(lambda: "metrics of" in self.log.read_text(), self.process, self.log)

    def page(self) -> str:
        return plain_http.get(f"http://{self.address}/metrics", timeout=20).raise_for_status().text

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(60)


class Controller:
    """`servekit apply --watch` on a stack, until `stop`."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.log = stack.root / "controller.log"
        command = [sys.executable, "-m", "servekit", "apply", "--watch", f"--metrics-port={port}", *stack.reach]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=stack.env())
        wait_for(self._is_up, self._process, self.log)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return plain_http.get(f"http://{self.address}/metrics").status_code == 200
        return False


class Prometheus:
    """prometheus/prometheus.yml and its rules, each second instead of each 15, and with other addresses."""

    def __init__(
        self, tools: Path, folder: Path, port: int, *, targets: list[Any], exporter: str, gateway: str, controller: str
    ) -> None:
        config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [f"{ROOT}/prometheus/rules/*.yml"]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        (folder / "scrape_targets.yml").write_text(yaml.safe_dump(targets))
        jobs["tensorflow-serving"]["file_sd_configs"][0]["files"] = [f"{folder}/scrape_targets.yml"]
        jobs["servekit-exporter"]["static_configs"][0]["targets"] = [exporter]
        jobs["gateway"]["static_configs"][0]["targets"] = [gateway]
        jobs["servekit-controller"]["static_configs"][0]["targets"] = [controller]
        jobs["prometheus"]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "prometheus.log"
        self._http = plain_http.Http(base_url=self.url, timeout=20)
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    tools / "prometheus",
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=out,
                stderr=out,
            )
        wait_for(self._is_ready, self._process, self._log)

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """Labels and value of every series now. Fails with Prometheus' words on a query that it does not take."""
        answer = self._http.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", answer["error"]
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def label_values(self, selector: str, label: str) -> list[str]:
        answer = self._http.get(f"/api/v1/label/{label}/values", params={"match[]": selector}).json()
        assert answer["status"] == "success", answer["error"]
        return list(answer["data"])

    def stop(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(60)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/-/ready").status_code == 200
        return False


def wait_for(happened: Any, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not up after {seconds:.0f} s:\n{log.read_text()}"
        time.sleep(0.05)


def panels(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of a dashboard's JSON, those in rows too."""
    for panel in entries:
        yield panel
        yield from panels(panel.get("panels") or [])
