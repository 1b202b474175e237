"""Section `stack`: limits of the containers. `servekit up` hands them to Docker Compose as variables."""

from __future__ import annotations

import re
from typing import Annotated, Any

from servekit.config.section import MAX_CORES, Auto, Either, Section

_MEMORY = re.compile(r"[1-9][0-9]*[MGT]")
_DISK = re.compile(r"[1-9][0-9]*[MGT]B")  # Prometheus insists on the B
_DURATION = re.compile(r"[1-9][0-9]*(s|m|h|d|w|y)")


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.01 <= value <= MAX_CORES


def _text(expected: str, pattern: re.Pattern[str]) -> Either:
    return Either(
        expected,
        lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None,
        {"type": "string", "pattern": f"^{pattern.pattern}$"},
    )


_SHARE_SCHEMA: dict[str, Any] = {"type": "number", "minimum": 0.01, "maximum": MAX_CORES}
Cpus = Annotated[int | float, Either(f"a number of cores from 0.01 to {MAX_CORES}", _is_share, _SHARE_SCHEMA)]
AutoCpus = Annotated[
    int | float | Auto,
    Either(
        f"auto or a number of cores from 0.01 to {MAX_CORES}",
        lambda value: value == "auto" or _is_share(value),
        {"anyOf": [{"const": "auto"}, _SHARE_SCHEMA]},
    ),
]
Memory = Annotated[str, _text("a size such as 512M or 8G", _MEMORY)]
Disk = Annotated[str, _text("a size such as 500MB or 8GB", _DISK)]
Duration = Annotated[str, _text("a duration such as 90s, 15d or 1y", _DURATION)]


class ModelServerLimits(Section):
    cpus: AutoCpus = "auto"
    """Cores that the model server's container may use; auto: all. The engine refuses more than the machine has."""

    memory: Memory = "8G"
    """Memory that it may use; beyond it the kernel ends the server. At a start all versions load at once."""


class PrometheusLimits(Section):
    cpus: Cpus = 1
    """Cores of Prometheus' container."""

    memory: Memory = "2G"
    """Its memory."""

    retention: Duration = "15d"
    """How long metrics are kept."""

    retention_size: Disk = "8GB"
    """How much disk they may take; the oldest go first."""


class GrafanaLimits(Section):
    cpus: Cpus = 1
    """Cores of Grafana's container."""

    memory: Memory = "512M"
    """Its memory."""


class GatewayLimits(Section):
    cpus: AutoCpus = "auto"
    """Cores that the gateway's container may use; auto: all. It needs little of one."""

    memory: Memory = "2G"
    """Memory that it may use: more than gateway.max_memory_mib, from which on it refuses requests."""


class Stack(Section):
    tfserving: ModelServerLimits = ModelServerLimits()
    """The model server's container."""

    gateway: GatewayLimits = GatewayLimits()
    """The gateway's container."""

    prometheus: PrometheusLimits = PrometheusLimits()
    """Prometheus' container."""

    grafana: GrafanaLimits = GrafanaLimits()
    """Grafana's container."""


VARIABLES = {
    "tfserving.cpus": "TFS_CPUS",
    "tfserving.memory": "TFS_MEMORY",
    "gateway.cpus": "GATEWAY_CPUS",
    "gateway.memory": "GATEWAY_MEMORY",
    "prometheus.cpus": "PROMETHEUS_CPUS",
    "prometheus.memory": "PROMETHEUS_MEMORY",
    "prometheus.retention": "PROMETHEUS_RETENTION",
    "prometheus.retention_size": "PROMETHEUS_RETENTION_SIZE",
    "grafana.cpus": "GRAFANA_CPUS",
    "grafana.memory": "GRAFANA_MEMORY",
}
"""Variable of docker-compose.yaml, by key of `stack`."""


def variables(stack: Stack) -> dict[str, str]:
    """What docker-compose.yaml is given. `auto` is 0 there: no limit."""
    values = {}
    for key, variable in VARIABLES.items():
        container, name = key.split(".")
        value = getattr(getattr(stack, container), name)
        values[variable] = "0" if value == "auto" else str(value)
    return values
