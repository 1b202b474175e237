"""A server under traffic that moves to a canary, watched by Prometheus: data for grafana/pictures.py.

python -m tests.monitoring.scenario --minutes 6 --out docs     (needs models/imagenet: servekit up, or servekit prepare)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from servekit.client import Client, ModelSpec
from servekit.errors import StatusError
from tests.conftest import free_port
from tests.monitoring.running import ROOT, Exporter, Prometheus, wait_for

MODELS_CONFIG = """
model_config_list {{
  config {{
    name: "imagenet" base_path: "{folder}/imagenet" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--tools", type=Path, required=True, help="folder of the program prometheus")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        _run(Path(name), arguments.minutes * 60, arguments.tools, arguments.out)


def _run(folder: Path, seconds: float, tools: Path, out: Path) -> None:
    shutil.copytree(ROOT / "models" / "imagenet", folder / "imagenet")
    (folder / "models.config").write_text(MODELS_CONFIG.format(folder=folder))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    (folder / "batching.config").write_text("max_batch_size { value: 32 } batch_timeout_micros { value: 2000 }")
    rest, grpc = free_port(), free_port()
    command = [sys.executable, "-m", "servekit", "serve", f"--port={grpc}", f"--rest_api_port={rest}"]
    command += [f"--model_config_file={folder}/models.config", f"--monitoring_config_file={folder}/monitoring.config"]
    command += ["--enable_batching=true", f"--batching_parameters_file={folder}/batching.config"]
    command += ["--allow_version_labels_for_unavailable_models=true", "--max_num_load_retries=0"]
    log = folder / "server.log"
    with log.open("wb") as to:
        environment = {**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"}
        server = subprocess.Popen(command, cwd=ROOT, stdout=to, stderr=to, env=environment)
    wait_for(lambda: "Exporting HTTP/REST API" in log.read_text(), server, log, 90)
    exporter = Exporter(
        folder, free_port(), f"--models-config={folder}/models.config", f"--url=grpc://127.0.0.1:{grpc}"
    )
    path = {"__metrics_path__": "/monitoring/prometheus/metrics"}
    prometheus = Prometheus(
        tools,
        folder,
        free_port(),
        targets=[{"targets": [f"127.0.0.1:{rest}"], "labels": path}],
        exporter=exporter.address,
    )
    try:
        traffic = threading.Thread(target=_traffic, args=(rest, grpc, seconds))
        traffic.start()
        time.sleep(seconds * 0.6)
        _publish_something_broken(folder / "imagenet" / "3")
        traffic.join()
        subprocess.run(
            [
                *(sys.executable, "-m", "grafana.pictures", prometheus.url),
                *(f"--seconds={seconds * 0.8:.0f}", f"--without={folder}", f"--out={out}"),
            ],
            cwd=ROOT,
            check=True,
        )
    finally:
        prometheus.stop()
        exporter.stop()
        server.terminate()
        server.wait(20)


def _publish_something_broken(version: Path) -> None:
    staged = version.with_name("staged")
    staged.mkdir()
    (staged / "saved_model.pb").write_bytes(b"no model")
    staged.rename(version)


def _traffic(rest: int, grpc: int, seconds: float) -> None:
    """A few predictions a second: a tenth of them to the canary, in the last third half; now and then a mistake."""
    photo = (ROOT / "export" / "samples" / "chelsea.png").read_bytes()
    body = {"instances": [{"b64": base64.b64encode(photo).decode()}]}
    began = time.monotonic()
    with Client(f"grpc://127.0.0.1:{grpc}") as client, httpx.Client(base_url=f"http://127.0.0.1:{rest}") as raw:
        count = 0
        while (elapsed := time.monotonic() - began) < seconds:
            count += 1
            of_ten = 5 if elapsed > seconds * 2 / 3 else 1
            label = "canary" if count % 10 < of_ten else "stable"
            if count % 2:
                client.predict(ModelSpec("imagenet", version_label=label), [photo])
            else:
                raw.post(f"/v1/models/imagenet/labels/{label}:predict", json=body)
            if count % 41 == 0:
                raw.post(f"/v1/models/imagenet/labels/{label}:predict", json={"instances": [[1.0]]})
            if count % 151 == 0:
                with contextlib.suppress(StatusError):
                    client.predict(ModelSpec("imagenet", 2, signature_name="none"), [photo])
            time.sleep(0.11 + 0.05 * (count % 3))


if __name__ == "__main__":
    main()
