"""Envoy in front of the server beside the server itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.load import free_port
from benchmarks.performance.section import Plot, Section, Skipped, column, in_pairs, in_turn
from benchmarks.performance.stand import Stand
from servekit.tune.figures import together

TITLE = "Gateway against none"
ABOUT = (
    "`servekit up` with the gateway, asked through it and directly, in turn, 16 clients: `imagenet` with a JPEG in a "
    "request, and `half_plus_two`, whose answers take no time, so that its figures are all gateway, server and client."
)


def measure(stand: Stand) -> Section:
    if importlib.util.find_spec("servekit.gateway.program") is None:
        raise Skipped("this servekit has no gateway")
    from servekit.gateway import program

    if program.find() is None:
        raise Skipped("Envoy is not installed here: ./scripts/setup")
    models = {
        "imagenet": stand.version("imagenet"),
        "half_plus_two": stand.bundle.root / "tests/models/half_plus_two/2",
    }
    import numpy as np

    asked = {
        "imagenet": stand.photo_requests("imagenet"),
        "half_plus_two": stand.requests_for("half_plus_two", {"x": np.ones(1, np.float32)}),
    }
    with _stack(stand, models) as (ports, pid):
        sides = {
            f"{model}, {protocol}, {way}": partial(
                stand.measure_at, _url(protocol, ports[way, protocol]), requests[protocol], 16, pid
            )
            for model, requests in asked.items()
            for protocol in ("REST", "gRPC")
            for way in ("direct", "gateway")
        }
        found = in_turn(sides, stand.rounds)
    rows, ratios = [], []
    bars: dict[str, dict[str, float]] = {}
    for model in asked:
        for protocol in ("REST", "gRPC"):
            pair = {way: found[f"{model}, {protocol}, {way}"] for way in ("direct", "gateway")}
            for way, parts in pair.items():
                one = together(parts)
                rows.append((model, protocol, way, one.per_second, one.p50_ms, one.p99_ms))
            bars[f"{model}, {protocol}"] = {way: together(parts).per_second for way, parts in pair.items()}
            for name, what in (("per_second", "answers a second"), ("p50_ms", "p50")):
                through, direct = column(pair["gateway"], name), column(pair["direct"], name)
                ratios.append(in_pairs(f"{model}, {protocol}: {what}, gateway / direct", through, direct))
    return Section(
        ("model", "protocol", "", "per second", "p50 ms", "p99 ms"),
        tuple(rows),
        tuple(ratios),
        Plot("answers a second, 16 clients", "", bars=bars),
    )


@contextlib.contextmanager
def _stack(stand: Stand, models: dict[str, Path]) -> Iterator[tuple[dict[tuple[str, str], int], int | None]]:
    """A bundle of its own, `servekit up --detach` in it; ports by way and protocol, and the server's process."""
    home = stand.work / "gateway"
    shutil.copytree(stand.bundle.root / "config" / "templates", home / "config" / "templates")
    (home / "export").symlink_to(stand.bundle.recipes)
    for name, version in models.items():
        (home / "models" / name).mkdir(parents=True)
        (home / "models" / name / "1").symlink_to(version.resolve())
    ports = {(way, protocol): free_port() for way in ("direct", "gateway") for protocol in ("REST", "gRPC")}
    (home / "config" / "serving.yaml").write_text(
        f"models: {{{', '.join(f'{name}: {{labels: {{stable: 1}}}}' for name in models)}}}\n"
        f"server: {{port: {ports['gateway', 'gRPC']}, rest_api_port: {ports['gateway', 'REST']}}}\n"
        f"gateway: {{server_port: {ports['direct', 'gRPC']}, server_rest_api_port: {ports['direct', 'REST']}}}\n"
    )
    environment = {**os.environ, "SERVEKIT_HOME": str(home)}
    command = [sys.executable, "-m", "servekit"]
    try:
        up = [*command, "up", "--detach", "--engine", stand.engine.name, "--no-demo"]
        done = subprocess.run(up, env=environment, cwd=stand.bundle.root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Skipped(f"servekit up with the gateway failed: {done.stderr.strip().splitlines()[-1:]}")
        state = json.loads((home / ".servekit" / "engine.json").read_text())
        yield ports, state.get("pid")
    finally:
        subprocess.run([*command, "down"], env=environment, cwd=stand.bundle.root, capture_output=True, check=False)


def _url(protocol: str, port: int) -> str:
    return f"{'grpc' if protocol == 'gRPC' else 'http'}://127.0.0.1:{port}"
