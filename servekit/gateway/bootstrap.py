"""Envoy's own configuration: listeners, filters, limits, the model server. It is read once, when Envoy starts."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import Any

import yaml

from servekit.config.serving import Serving
from servekit.gateway import clusters, names
from servekit.gateway.address import Address, Socket
from servekit.gateway.local_answers import local_replies
from servekit.gateway.metrics import buckets, request_log
from servekit.gateway.routes import TYPE

ADMIN_SOCKET = "admin.sock"

_FILTERS = f"{TYPE}extensions.filters.http"
_MANAGER = f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_MOST_CONNECTIONS = 20_000
_READ_AT_ONCE = 2**17  # unpacked in one go: no more than 1032 times as much


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is, as Envoy sees it."""

    grpc: Address
    rest: Address
    metrics: Address
    server_grpc: Address
    server_rest: Address
    routes: PurePath
    admin: Address | Socket


def bootstrap_text(serving: Serving, places: Places) -> str:
    about = "# Written by servekit from config/serving.yaml; Envoy reads it when it starts.\n"
    return about + yaml.dump(bootstrap(serving, places), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def bootstrap(serving: Serving, places: Places) -> dict[str, Any]:
    deadline = f"{serving.gateway.deadline_ms / 1000:g}s"
    front = [_taken_away(exact=names.ROUTE), _taken_away(exact="x-servekit-copy"), _taken_away(prefix="x-envoy-")]
    label = [_gunzip(), _size_limit(serving), _lua(names.FILTER, "label.lua")]
    listeners = [
        _listener("grpc", places.grpc, _manager("grpc", serving, places, front, label, deadline)),
        _listener("rest", places.rest, _manager("rest", serving, places, front, label, deadline)),
        _listener("metrics", places.metrics, _metrics(places)),
        *(_copy_listener(protocol, serving) for protocol in names.PROTOCOLS),
    ]
    return {
        "node": {"id": "servekit", "cluster": "servekit"},
        "admin": {"address": places.admin.envoy()},
        "stats_flush_interval": "1s",
        "stats_config": {"histogram_bucket_settings": [{"match": {"prefix": "servekit"}, "buckets": buckets()}]},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {"@type": f"{TYPE}extensions.bootstrap.internal_listener.v3.InternalListener"},
            }
        ],
        "overload_manager": _overload(serving),
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                *clusters.clusters(serving, {"grpc": places.server_grpc, "rest": places.server_rest}),
                clusters.admin(places.admin),
            ],
        },
    }


def _listener(name: str, address: Address, manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": address.envoy(),
        # Two processes with SO_REUSEPORT would share a port without either of them saying so.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _READ_AT_ONCE,
        "filter_chains": [{"filters": [manager]}],
    }


def _copy_listener(protocol: str, serving: Serving) -> dict[str, Any]:
    """Inside Envoy, without a port: takes copies of requests to stable and sends them on, labelled canary."""
    route = names.route(protocol, "copied")
    action = {"cluster": names.cluster(protocol, "copied"), "timeout": f"{serving.gateway.deadline_ms / 1000:g}s"}
    header = {"name": names.ROUTE, "string_match": {"exact": route}}
    table = {
        "name": names.copy_cluster(protocol),
        "request_headers_to_remove": [names.ROUTE, "x-servekit-copy"],
        "virtual_hosts": [
            {
                "name": "copy",
                "domains": ["*"],
                "request_body_buffer_limit": (2 * serving.gateway.max_request_mib + 1) * 2**20,
                "routes": [
                    {"match": {"prefix": "/", "headers": [header]}, "route": action},
                    {"match": {"prefix": "/"}, "direct_response": {"status": 503}},
                ],
            }
        ],
    }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": names.copy_cluster(protocol),
        "codec_type": "HTTP2" if protocol == "grpc" else "HTTP1",
        "generate_request_id": False,
        "access_log": [request_log("copy")],
        "early_header_mutation_extensions": [_mutations([_taken_away(exact=names.ROUTE)])],
        "route_config": table,
        "http_filters": [_lua(names.COPY_FILTER, "copy.lua"), _router()],
    }
    return {
        "name": names.copy_cluster(protocol),
        "internal_listener": {},
        "filter_chains": [{"filters": [_named("envoy.filters.network.http_connection_manager", manager)]}],
    }


def _manager(
    name: str,
    serving: Serving,
    places: Places,
    mutations: list[dict[str, Any]],
    filters: list[dict[str, Any]],
    deadline: str,
) -> dict[str, Any]:
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "codec_type": "HTTP2" if name == "grpc" else "HTTP1",
        # What it passes on is what the client sent: the model server has its own rules for paths and headers.
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "use_remote_address": True,
        "skip_xff_append": True,
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 4 * 2**20,
            "initial_connection_window_size": 16 * 2**20,
        },
        "request_headers_timeout": "10s",
        "request_timeout": deadline,
        "stream_idle_timeout": deadline,
        "access_log": [request_log("client")],
        "local_reply_config": local_replies(serving.gateway),
        "early_header_mutation_extensions": [_mutations(mutations)],
        "rds": _rds(places),
        "http_filters": [*filters, _router()],
    }
    return _named("envoy.filters.network.http_connection_manager", manager)


def _metrics(places: Places) -> dict[str, Any]:
    """Its requests are told from clients' by a header that only this listener sets."""
    header = {"header": {"key": names.ROUTE, "value": names.METRICS}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "metrics",
        "generate_request_id": False,
        "request_timeout": "10s",
        "early_header_mutation_extensions": [_mutations([{"append": header}])],
        "rds": _rds(places),
        "http_filters": [_router()],
    }
    return _named("envoy.filters.network.http_connection_manager", manager)


def _rds(places: Places) -> dict[str, Any]:
    folder = {"path": str(places.routes.parent)}
    watched = {"path": str(places.routes), "watched_directory": folder}
    return {
        "route_config_name": names.ROUTES,
        "config_source": {"resource_api_version": "V3", "path_config_source": watched},
    }


def _mutations(mutations: list[dict[str, Any]]) -> dict[str, Any]:
    """Before the first route is looked up."""
    kind = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    config = {"@type": f"{TYPE}{kind}", "mutations": mutations}
    return _named("envoy.http.early_header_mutation.header_mutation", config)


def _taken_away(**matcher: str) -> dict[str, Any]:
    return {"remove_on_match": {"key_matcher": matcher}}


def _gunzip() -> dict[str, Any]:
    """Requests are unpacked, so that their rows can be seen and their size is the one that counts; answers are not."""
    # The most that deflate can do; what it makes is then held against the size limit.
    gzip = {"@type": f"{TYPE}extensions.compression.gzip.decompressor.v3.Gzip", "max_inflate_ratio": 1032}
    library = _named("gzip", gzip | {"chunk_size": 2**16})
    off = {"common_config": {"enabled": {"default_value": False, "runtime_key": "servekit.unpack_answers"}}}
    config = {
        "@type": f"{_FILTERS}.decompressor.v3.Decompressor",
        "decompressor_library": library,
        "request_direction_config": {"advertise_accept_encoding": False},
        "response_direction_config": off,
    }
    return _named("servekit.gunzip", config)


def _size_limit(serving: Serving) -> dict[str, Any]:
    limit = serving.gateway.max_request_mib * 2**20
    config = {"@type": f"{_FILTERS}.body_size_limit.v3.BodySizeLimit", "max_request_bytes": limit}
    return _named("servekit.size", config)


def _lua(name: str, file: str) -> dict[str, Any]:
    source = resources.files("servekit.gateway").joinpath(file).read_text(encoding="utf-8")
    config = {
        "@type": f"{_FILTERS}.lua.v3.Lua",
        "stat_prefix": name.rpartition(".")[2],
        "clear_route_cache": False,
        "default_source_code": {"inline_string": source},
    }
    return _named(name, config)


def _router() -> dict[str, Any]:
    return _named(
        "envoy.filters.http.router", {"@type": f"{_FILTERS}.router.v3.Router", "suppress_envoy_headers": True}
    )


def _overload(serving: Serving) -> dict[str, Any]:
    kind = f"{TYPE}extensions.resource_monitors"
    heap = serving.gateway.max_memory_mib * 2**20
    refuse = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.95}}
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            _named(
                "envoy.resource_monitors.fixed_heap",
                {"@type": f"{kind}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": heap},
            ),
            _named(
                "envoy.resource_monitors.global_downstream_max_connections",
                {
                    "@type": f"{kind}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": _MOST_CONNECTIONS,
                },
            ),
        ],
        "actions": [{"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [refuse]}],
    }


def _named(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": config}


class _Dumper(yaml.SafeDumper):
    """Longer texts as they are written: the Lua code stays readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
