"""What the gateway costs: `python -m benchmarks.gateway [--seconds 6] [--json]`.

`servekit up` with models/imagenet, whose unlabelled requests (one JPEG each) the gateway labels; then load on it and on
the server behind it in turn, over REST and gRPC, by 1 client and by 8. Told for each: answers a second and median
latency, their ratio and difference. The exit status is 1 when the gateway keeps less than 0.95 of the throughput of 8
clients, or adds more than 1 ms to the median of one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import ROOT, free_port
from servekit.bench.payload import requests
from servekit.bench.report import Run
from servekit.bench.session import Settings, Side, machine, measure
from servekit.bench.traffic import Shape
from servekit.client import Client
from servekit.engine.state import EngineState, read
from servekit.model_spec import ModelSpec
from servekit.paths import Bundle

KEPT, ADDED_MS = 0.95, 1.0
CLIENTS = (1, 8)
_LINE = (
    "{protocol}, {clients} clients: {direct:.1f} a second, p50 {direct_ms:.2f} ms; "
    "through the gateway {gateway:.1f}, {gateway_ms:.2f} ms: kept {kept:.3f}, added {added_ms:+.2f} ms"
)
MODEL = "imagenet"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of load for each side and number of clients")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with _stack() as running:
        sides = _sides(running)
        settings = Settings(seconds=options.seconds, warmup_s=0.3, pids={"server": running.pid})
        runs = measure(sides, [Shape(clients=clients) for clients in CLIENTS], settings, lambda *_: None)
    rows = list(_rows(runs))
    if options.json:
        print(json.dumps({"machine": dict(machine()), "rows": rows}, indent=2))
    else:
        print(f"{machine()['cpu']}, {machine()['cores']} cores")
        for row in rows:
            print(_LINE.format(**row))
    alone, many = CLIENTS
    kept = all(row["kept"] >= KEPT for row in rows if row["clients"] == many)
    quick = all(row["added_ms"] <= ADDED_MS for row in rows if row["clients"] == alone)
    return 0 if kept and quick else 1


def _rows(runs: list[Run]) -> Iterator[dict[str, Any]]:
    by_key = {(run.protocol, run.target, run.level): run for run in runs}
    for clients in CLIENTS:
        for protocol in ("REST", "gRPC"):
            direct, gateway = (by_key[protocol, target, float(clients)] for target in ("direct", "gateway"))
            row: dict[str, Any] = {"protocol": protocol, "clients": clients}
            for name, run in (("direct", direct), ("gateway", gateway)):
                if run.latency_ms is None:
                    raise SystemExit(f"{name}, {protocol}: {dict(run.errors)}")
                row |= {name: run.per_second, f"{name}_ms": run.latency_ms["p50"]}
            row["kept"] = row["gateway"] / row["direct"]
            row["added_ms"] = row["gateway_ms"] - row["direct_ms"]
            yield row


def _sides(running: EngineState) -> list[Side]:
    photograph = (ROOT / "export" / "samples" / "chelsea.jpg").read_bytes()
    with Client(running.grpc_url) as client:
        signature = client.metadata(MODEL).signature("")
    assert signature is not None
    [name] = signature.inputs
    import numpy as np

    asked = requests(ModelSpec(MODEL), [{name: np.array([photograph], object)}])
    urls = {
        ("REST", "direct"): f"http://127.0.0.1:{running.server_rest_port}",
        ("REST", "gateway"): running.rest_url,
        ("gRPC", "direct"): running.server_grpc_url,
        ("gRPC", "gateway"): running.grpc_url,
    }
    return [Side(protocol, target, url, asked[protocol]) for (protocol, target), url in urls.items()]


@contextmanager
def _stack() -> Iterator[EngineState]:
    """A bundle of its own with the first version of the model."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(ROOT / "config" / "templates", home / "config" / "templates")
        version = sorted(path.parent for path in (ROOT / "models" / MODEL).glob("*/saved_model.pb"))[0]
        (home / "models" / MODEL).mkdir(parents=True)
        (home / "models" / MODEL / "1").symlink_to(version.resolve())
        (home / "export").mkdir()
        (home / "config" / "serving.yaml").write_text(
            f"models: {{{MODEL}: {{labels: {{stable: 1}}}}}}\n"
            f"server: {{port: {free_port()}, rest_api_port: {free_port()}}}\n"
        )
        command = [sys.executable, "-m", "servekit"]
        environment = {**os.environ, "SERVEKIT_HOME": str(home)}
        try:
            up = [*command, "up", "--detach", "--engine", "embedded", "--no-demo"]
            subprocess.run(up, env=environment, cwd=ROOT, check=True, stdout=sys.stderr)
            running = read(Bundle(home))
            assert running is not None
            yield running
        finally:
            subprocess.run([*command, "down"], env=environment, cwd=ROOT, check=False, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
