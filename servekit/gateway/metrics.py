"""What Envoy counts: every request, by model, label, protocol, method, traffic and status; `counters` reads it."""

from __future__ import annotations

from typing import Any

from servekit.gateway.counters import CLIENT, COPY
from servekit.gateway.routes import TYPE

_STEPS = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)  # ISO 3's R10: each a quarter more than the one before
_DECADES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def buckets() -> list[float]:
    """Upper bounds in microseconds, from 100 us to 80 s."""
    return [round(step * decade) for decade in _DECADES for step in _STEPS]


def request_log(protocol: str, traffic: str) -> dict[str, Any]:
    """`traffic`: CLIENT, or COPY."""
    assert traffic in (CLIENT, COPY)
    tags = [{"name": tag, "value_format": f"%DYNAMIC_METADATA(servekit:request:{tag})%"} for tag in _SAID_BY_LUA]
    tags += [{"name": "protocol", "value_format": protocol}, {"name": "traffic", "value_format": traffic}]
    codes = [
        {"name": "code", "value_format": "%RESPONSE_CODE%"},
        {"name": "grpc_status", "value_format": "%GRPC_STATUS(SNAKE_STRING)%"},
    ]
    latency = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
    config = {
        "@type": f"{TYPE}extensions.access_loggers.stats.v3.Config",
        "stats_scope": {"prefix": "servekit"},
        "counters": [{"stat": {"name": "requests_total", "tags": [*tags, *codes]}, "value_fixed": 1}],
        "histograms": [{"stat": {"name": "latency_us", "tags": tags}, "unit": "Microseconds", "value_format": latency}],
    }
    return {"name": "envoy.access_loggers.stats", "typed_config": config}


_SAID_BY_LUA = ("model", "label", "method")
