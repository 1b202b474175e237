"""Names that the route file, Envoy's bootstrap and its Lua filter have in common."""

from __future__ import annotations

ROUTES = "servekit"
"""Of the route configuration."""

ROUTES_FILE = "gateway/routes.yaml"
"""Below config/rendered, and below config/rendered/container."""

FILTER = "servekit.label"
"""Of the Lua filter that labels requests; its context stands in the route file."""

GUNZIP = "servekit.gunzip"
"""Of the filter that unpacks requests."""

COPY_FILTER = "servekit.copy"
"""Of the Lua filter that turns a copy of a request for `stable` into one for `canary`."""

ROUTE = "x-servekit-route"
"""Header by which the Lua filter names the route that a request takes. Taken away from clients' requests before the
first route is looked up, and again before they go to the model server."""

LABEL = "x-servekit-label"
"""Header of answers: the label that the request had, or was given."""

VERSION = "x-servekit-version"
"""Header of answers: the version that the request named, or that the server says answered."""

PROTOCOLS = ("rest", "grpc")
KINDS = ("stable", "canary", "other")
"""What is limited apart: a canary that hangs leaves room for stable, and both for explicit versions and the rest."""

COPIED = "copied"
"""The route of requests to stable that the canary gets a copy of."""

METRICS = "metrics"
"""The route of the metrics listener's requests."""


def cluster(protocol: str, kind: str) -> str:
    return f"{protocol}_{kind}"


def route(protocol: str, kind: str) -> str:
    """The value of header ROUTE."""
    return f"{protocol}.{kind}"


def copy_cluster(protocol: str) -> str:
    """Where copies go: a listener inside Envoy that labels them `canary`."""
    return f"{protocol}_copy"
