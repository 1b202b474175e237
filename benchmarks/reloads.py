"""Memory over reloads: `python -m benchmarks.reloads [--reloads 200] [--csv FILE] [--svg FILE]`.

A whole server, told over gRPC to serve version 1, then 2, then 1 ...; each reload is followed by a prediction. The CSV
has a line for each reload (reload,rss_mib), the SVG is its plot. The exit status is 1 when the median of the last fifth
lies more than the limit above that of the second fifth (in the first one allocators fill their pools).
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from benchmarks.load import ROOT, Server, serving
from benchmarks.server import predict_request
from servekit.protos import messages

MODEL, BASE_PATH = "half_plus_two", ROOT / "tests" / "models" / "half_plus_two"
LIMIT_MIB = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--csv", type=Path, help="where to write the memory after each reload")
    parser.add_argument("--svg", type=Path, help="where to draw it")
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, help="MiB of growth")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, serving(MODEL, BASE_PATH, Path(work)) as server:
        memory = list(memory_after_reloads(server, options.reloads))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("reload", "rss_mib"), *enumerate(memory, start=1)])
    if options.svg:
        options.svg.write_text(drawing(memory))
    grown = growth_mib(memory)
    print(f"{len(memory)} reloads: {memory[0]:.1f} MiB after the first, {memory[-1]:.1f} after the last, ", end="")
    print(f"growth {grown:+.1f} MiB (limit {options.limit:g})")
    return 0 if grown <= options.limit else 1


def memory_after_reloads(server: Server, reloads: int) -> Iterator[float]:
    """Swaps the version, asks it something, yields the resident memory in MiB."""
    question = predict_request(MODEL, x=np.array([1.0], np.float32))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reload = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        status = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        for number in range(reloads):
            wanted = number % 2 + 1
            request = messages.ReloadConfigRequest()
            model = request.config.model_config_list.config.add(
                name=MODEL, base_path=str(BASE_PATH), model_platform="tensorflow"
            )
            model.model_version_policy.specific.versions.append(wanted)
            answer = messages.ReloadConfigResponse.FromString(reload(request.SerializeToString(), timeout=60))
            if answer.status.error_code:
                sys.exit(f"reload {number + 1} failed: {answer.status.error_message}")
            asked = messages.GetModelStatusRequest()
            asked.model_spec.name = MODEL
            while serving_versions(status(asked.SerializeToString(), timeout=60)) != [wanted]:
                time.sleep(0.02)
            predict(question, timeout=60)
            yield server.rss_kib() / 1024


def serving_versions(data: bytes) -> list[int]:
    available = 30
    states = messages.GetModelStatusResponse.FromString(data).model_version_status
    return [state.version for state in states if state.state == available]


def drawing(memory: Sequence[float]) -> str:
    """A line of the memory (MiB, from 0 on) over the reloads, as SVG."""
    width, height, left, top, right, bottom = 720, 260, 52, 30, 700, 220
    highest = math.ceil(max(memory) * 1.1 / 100) * 100
    scale_x, scale_y = (right - left) / max(len(memory) - 1, 1), (bottom - top) / highest
    points = " ".join(f"{left + i * scale_x:.1f},{bottom - mib * scale_y:.1f}" for i, mib in enumerate(memory))
    text = 'font-family="sans-serif" font-size="12" fill="#444"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>Resident memory of the embedded server over {len(memory)} reloads</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="18" {text}>resident memory after each of {len(memory)} reloads (MiB)</text>',
    ]
    for mib in range(0, highest + 1, 100):
        y = bottom - mib * scale_y
        lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" {text}>{mib}</text>')
    for reload in (1, len(memory) // 2, len(memory)):
        x = left + (reload - 1) * scale_x
        lines.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle" {text}>{reload}</text>')
    lines.append(f'<polyline points="{points}" fill="none" stroke="#1a73e8" stroke-width="2"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def growth_mib(memory: list[float]) -> float:
    fifth = max(len(memory) // 5, 1)
    return statistics.median(memory[-fifth:]) - statistics.median(memory[fifth : 2 * fifth] or memory)


if __name__ == "__main__":
    sys.exit(main())
