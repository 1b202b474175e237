"""Envoy's route file (RDS): the only file that changes while it runs.

The Lua filter names a route in a header that clients cannot set; a request that it did not route, whatever the reason,
meets the last route, which refuses it. So nothing goes to the model server without a decision about its label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from servekit.config.serving import Serving
from servekit.gateway import names, stats
from servekit.gateway.splits import Split, generation

TYPE = "type.googleapis.com/envoy."
RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Only what is sure not to have reached the model server."""


def route_file(splits: Mapping[str, Split], serving: Serving) -> dict[str, Any]:
    """An Envoy DiscoveryResponse with one RouteConfiguration."""
    name = generation(splits, serving)
    host = {
        "name": names.ROUTES,
        "domains": ["*"],
        # Twice: while Lua writes a message anew there are two of them. A filter before it refuses larger requests.
        "request_body_buffer_limit": (2 * serving.gateway.max_request_mib + 1) * 2**20,
        "typed_per_filter_config": {
            names.FILTER: {
                "@type": f"{TYPE}extensions.filters.http.lua.v3.LuaPerRoute",
                "filter_context": _context(splits, serving, name),
            }
        },
        "response_headers_to_add": [_header(names.LABEL, "answered"), _header(names.VERSION, "version")],
        "routes": [*_undecided(), *_to_server(serving), *_to_admin(name), _refused()],
    }
    table = {
        "@type": f"{TYPE}config.route.v3.RouteConfiguration",
        "name": names.ROUTES,
        "validate_clusters": True,
        "request_headers_to_remove": [names.ROUTE],
        "virtual_hosts": [host],
    }
    return {"version_info": name, "resources": [table]}


def splits_of(document: Any) -> dict[str, Split]:
    """The splits of a route file. Raises KeyError, TypeError, IndexError for something else."""
    host = document["resources"][0]["virtual_hosts"][0]
    models = host["typed_per_filter_config"][names.FILTER]["filter_context"]["models"]
    return {
        name: Split(int(entry["weight"]), entry.get("sticky"), int(entry["mirror"])) for name, entry in models.items()
    }


def _header(name: str, said: str) -> dict[str, Any]:
    """Of answers, where the Lua filter said what it should be."""
    value = f"%DYNAMIC_METADATA(servekit:request:{said})%"
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _context(splits: Mapping[str, Split], serving: Serving, name: str) -> dict[str, Any]:
    """What the Lua filter reads. It keeps the models until `generation` changes."""
    models = {
        model: {"weight": split.weight, "mirror": split.mirror} | ({"sticky": split.sticky} if split.sticky else {})
        for model, split in splits.items()
    }
    others = [model for model in serving.models if model not in models]  # known to metrics, and not labelled
    return {"generation": name, "batching": serving.batching.enabled, "models": models, "others": others}


def _to_server(serving: Serving) -> list[dict[str, Any]]:
    routes = []
    for protocol in names.PROTOCOLS:
        for kind in (*names.KINDS, names.COPIED):
            action = _action(serving, names.cluster(protocol, "stable" if kind == names.COPIED else kind))
            if kind == names.COPIED:
                action["request_mirror_policies"] = [{"cluster": names.copy_cluster(protocol)}]
            routes.append(_route(names.route(protocol, kind), {"prefix": "/"}, {"route": action}))
    return routes


def _action(serving: Serving, cluster: str) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": cluster, "timeout": f"{serving.gateway.deadline_ms / 1000:g}s"}
    if serving.gateway.retries:
        action["retry_policy"] = {"retry_on": RETRY_ON, "num_retries": serving.gateway.retries}
    return action


def _to_admin(name: str) -> list[dict[str, Any]]:
    """Of the metrics listener. The generation is answered out of this file: whoever gets it has its routes."""
    metrics = {"cluster": "admin", "prefix_rewrite": f"/stats/prometheus?filter={quote(stats.SHOWN)}"}
    answer = {"status": 200, "body": {"inline_string": name}}
    return [
        _route(names.METRICS, {"path": "/metrics"}, {"route": metrics}),
        _route(names.METRICS, {"path": "/generation"}, {"direct_response": answer}),
        _route(names.METRICS, {"prefix": "/"}, {"direct_response": {"status": 404}}),
    ]


def _refused(name: str = "refused", *headers: dict[str, Any]) -> dict[str, Any]:
    """Goes to the cluster that the header names, which is not there: no cluster, 503 (`local_answers`). A direct
    response would do the same, but for the limit of buffered bodies: Envoy takes that from routes to clusters only.
    """
    match = {"prefix": "/"} | ({"headers": [*headers]} if headers else {})
    return {"name": name, "match": match, "route": {"cluster_header": names.ROUTE}}


def _undecided() -> list[dict[str, Any]]:
    """The first look, before Lua: which filters there are. Also the last one's part, for most requests at once."""
    not_named = {"name": names.ROUTE, "present_match": False}
    packed = {"name": "content-encoding", "present_match": True}
    gunzip = {names.GUNZIP: {"@type": f"{TYPE}config.route.v3.FilterConfig", "config": {}}}
    return [
        _refused("packed", not_named, packed) | {"typed_per_filter_config": gunzip},
        _refused("undecided", not_named),
    ]


def _route(name: str, path: dict[str, str], action: dict[str, Any]) -> dict[str, Any]:
    header = {"name": names.ROUTE, "string_match": {"exact": name}}
    return {"match": {**path, "headers": [header]}, **action}
