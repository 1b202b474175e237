"""The model server as Envoy sees it: once for each protocol and kind of traffic, so that each has limits of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servekit.config.serving import Serving
from servekit.gateway import names
from servekit.gateway.address import Address, Socket
from servekit.gateway.routes import TYPE

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

IDLE_S = 30
"""TensorFlow Serving's HTTP server closes idle connections after 50 s; Envoy is to be the first to."""


def clusters(serving: Serving, server: Mapping[str, Address]) -> list[dict[str, Any]]:
    """`server` is where it listens, by protocol."""
    result = []
    for protocol, address in server.items():
        kind = "STATIC" if address.is_ip else "STRICT_DNS"
        for traffic in (*names.KINDS, names.COPIED):
            result.append(_cluster(names.cluster(protocol, traffic), protocol, kind, address.envoy(), serving))
        inside = {"envoy_internal_address": {"server_listener_name": names.copy_cluster(protocol)}}
        result.append(_cluster(names.copy_cluster(protocol), protocol, "STATIC", inside, serving))
    return result


def admin(where: Address | Socket) -> dict[str, Any]:
    address = where.envoy() if isinstance(where, Address) else where.envoy_client()
    return {"name": "admin", "connect_timeout": "1s", "load_assignment": _endpoints("admin", address)}


def _cluster(name: str, protocol: str, kind: str, address: dict[str, Any], serving: Serving) -> dict[str, Any]:
    most = serving.gateway.max_requests
    limits = {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most}
    return {
        "name": name,
        "connect_timeout": "1s",
        "type": kind,
        "dns_lookup_family": "V4_PREFERRED",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {_OPTIONS: _options(protocol)},
        "load_assignment": _endpoints(name, address),
    }


def _options(protocol: str) -> dict[str, Any]:
    explicit: dict[str, Any] = {"http_protocol_options": {}}
    if protocol == "grpc":
        windows = {"initial_stream_window_size": 4 * 2**20, "initial_connection_window_size": 16 * 2**20}
        explicit = {"http2_protocol_options": windows}
    return {
        "@type": f"{TYPE}{_OPTIONS.removeprefix('envoy.')}",
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
        "explicit_http_config": explicit,
    }


def _endpoints(name: str, address: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
