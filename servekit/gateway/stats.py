"""Which of Envoy's hundreds of counters are kept, and which of them its metrics page shows. Regular expressions."""

from __future__ import annotations

_SHOWN = (
    "servekit.*",
    # What alerts ask for. Also what is 0: an increase is seen from the first time on.
    r"http\.[a-z_]+\.lua\.[a-z]+\.errors",
    r"http\.[a-z_]+\.rds\.[a-z]+\.update_(success|rejected|failure)",
    r"cluster\.[a-z_]+\.upstream_rq_(active|pending)_overflow",
)

CONNECTIONS = r"http\.(grpc|rest)\.downstream_(rq|cx)_active"
"""Requests and connections of clients: what the gateway's end waits for."""

SHOWN = f"^({'|'.join(_SHOWN)})$"
"""On the metrics page."""

KEPT = "|".join((*_SHOWN, CONNECTIONS))
"""The others are not even counted: each request would touch a hundred of them."""
