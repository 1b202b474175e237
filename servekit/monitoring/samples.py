"""What Prometheus is told of models and of the server's process: one set of names for embedded server and exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from servekit.errors import Code

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "servekit_model_configured": ("model",),
    "servekit_version_available": ("model", "version"),
    "servekit_version_state": ("model", "version", "state", "code"),
    "servekit_version_label": ("model", "label", "version"),
    "servekit_server_resident_memory_bytes": (),
    "servekit_server_memory_limit_bytes": (),
    "servekit_server_start_time_seconds": (),
    "servekit_server_cpu_seconds_total": (),
}
"""Families and their labels; docs/monitoring.md explains them."""


def kind(family: str) -> str:
    """Prometheus' word for it."""
    return "counter" if family.endswith("_total") else "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    family: str
    labels: tuple[str, ...]
    value: float = 1


@dataclass(frozen=True, slots=True)
class VersionState:
    """`state` in TF Serving's words; `code` is not OK where the version could not be loaded."""

    version: int
    state: str
    code: Code


def model_samples(model: str, versions: Iterable[VersionState], labels: Mapping[str, int]) -> Iterator[Sample]:
    """One configured model; `labels` with the version that each means on the server now."""
    yield Sample("servekit_model_configured", (model,))
    for one in versions:
        yield Sample("servekit_version_state", (model, str(one.version), one.state, one.code.name))
        if one.state == "AVAILABLE":
            yield Sample("servekit_version_available", (model, str(one.version)))
    for label, version in labels.items():
        yield Sample("servekit_version_label", (model, label, str(version)))
