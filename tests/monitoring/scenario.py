"""A canary that gets more and more of the traffic, watched by Prometheus: data for grafana/pictures.py.

python -m tests.monitoring.scenario --minutes 4 --out docs     (needs models/imagenet: servekit up, or servekit prepare)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from servekit.client import Client, ModelSpec
from servekit.errors import StatusError
from tests import plain_http
from tests.canary.conftest import Stack
from tests.conftest import free_port
from tests.monitoring.running import ROOT, Controller, Exporter, Prometheus

SERVING = """
models:
  imagenet:
    versions: {specific: [1]}
    labels: {stable: 1}
    canary:
      analysis:
        interval: SECONDSs
        threshold: 3
        step_weight: 15
        max_weight: 100
        min_requests: 5
        p99_ratio: 20 # on a machine that does other things
        agreement: {count: 4, minimum: 0.5}
server: {max_num_load_retries: 0, poll_seconds: 1}
batching: {max_batch_size: 32, batch_timeout_micros: 2000}
"""


class Rollout(Stack):
    """`imagenet` instead of the model of the tests; a check each `interval` seconds."""

    def __init__(self, root: Path, interval: float) -> None:
        self._interval = interval
        super().__init__(root, ROOT / "tests" / "models")

    def write(self, versions: str, labels: str, canary: str = "") -> None:
        shutil.rmtree(self.root / "models")
        shutil.copytree(ROOT / "models" / "imagenet", self.root / "models" / "imagenet")
        self.yaml.write_text(SERVING.replace("SECONDS", str(round(self._interval))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--tools", type=Path, required=True, help="folder of the program prometheus")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        _run(Path(name), arguments.minutes * 60, arguments.tools, arguments.out)


def _run(folder: Path, seconds: float, tools: Path, out: Path) -> None:
    stack = Rollout(folder, seconds / 10)  # begun at a third, it is at its greatest weight at the end
    grpc, rest = stack.ports[:2]
    exporter = Exporter(
        folder, free_port(), f"--models-config={stack.bundle.rendered}/models.config", f"--url=grpc://127.0.0.1:{grpc}"
    )
    controller = Controller(stack, free_port())
    path = {"__metrics_path__": "/monitoring/prometheus/metrics"}
    prometheus = Prometheus(
        tools,
        folder,
        free_port(),
        targets=[{"targets": [f"127.0.0.1:{rest}"], "labels": path}],
        exporter=exporter.address,
        gateway=stack.gateway_url.removeprefix("http://"),
        controller=controller.address,
    )
    try:
        traffic = threading.Thread(target=_traffic, args=(stack, seconds))
        traffic.start()
        time.sleep(seconds * 0.3)
        started = stack.canary("start", "imagenet", "--version", "2", "--weight", "10", "--auto")
        assert started.returncode == 0, started.stderr
        stack.yaml.write_text(stack.yaml.read_text().replace("auto: true", "auto: true\n      mirror: 5"))
        traffic.join()
        subprocess.run(
            [
                *(sys.executable, "-m", "grafana.pictures", prometheus.url),
                *(f"--seconds={seconds * 0.85:.0f}", f"--without={folder}", f"--out={out}"),
            ],
            cwd=ROOT,
            check=True,
        )
    finally:
        prometheus.stop()
        controller.stop()
        exporter.stop()
        stack.stop()


def _traffic(stack: Rollout, seconds: float) -> None:
    """A few predictions a second at the gateway, without a label; now and then a mistake."""
    photo = (ROOT / "export" / "samples" / "chelsea.png").read_bytes()
    body = {"instances": [{"b64": base64.b64encode(photo).decode()}]}
    began = time.monotonic()
    grpc, rest = (f"127.0.0.1:{port}" for port in stack.ports[2:4])
    with Client(f"grpc://{grpc}") as client, plain_http.Http(base_url=f"http://{rest}", timeout=20) as raw:
        count = 0
        while time.monotonic() - began < seconds:
            count += 1
            if count % 2:
                client.predict(ModelSpec("imagenet"), [photo])
            else:
                raw.post("/v1/models/imagenet:predict", json=body)
            if count % 41 == 0:
                raw.post("/v1/models/imagenet:predict", json={"instances": [[1.0]]})
            if count % 67 == 0:
                with contextlib.suppress(StatusError):
                    client.predict(ModelSpec("imagenet", signature_name="none"), [photo])
            time.sleep(0.05 + 0.04 * (count % 3))


if __name__ == "__main__":
    main()
