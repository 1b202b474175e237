"""The whole of serving.yaml, typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from servekit.config.batching import Batching
from servekit.config.gateway import Gateway
from servekit.config.models import NAMED, Model, name_finding
from servekit.config.monitoring import Monitoring
from servekit.config.section import Finding, Section
from servekit.config.server import Server
from servekit.config.stack import Stack


class Serving(Section):
    """config/serving.yaml: the one file people edit. `servekit render` turns it into the model server's own files."""

    models: Annotated[dict[str, Model], Field(min_length=1, json_schema_extra=NAMED)]
    """What is served: one entry a model."""

    batching: Batching = Batching()
    """Running rows of several requests together."""

    monitoring: Monitoring = Monitoring()
    """Metrics for Prometheus."""

    server: Server = Server()
    """The model server's process."""

    gateway: Gateway = Gateway()
    """Envoy in front of the model server."""

    stack: Stack = Stack()
    """Limits of the containers, with Docker only."""

    def findings(self) -> Iterator[Finding]:
        for name, model in self.models.items():
            if (bad := name_finding(name)) is not None:
                yield bad.under("models")
            yield from (finding.under("models", name) for finding in model.findings())
        sections = {"batching": self.batching, "monitoring": self.monitoring, "server": self.server}
        for name, model in self.models.items():
            if model.canary is not None and not self.gateway.enabled:
                yield Finding(("models", name, "canary"), "needs the gateway", "gateway: {enabled: true}")
        for key, section in sections.items():
            yield from (finding.under(key) for finding in section.findings())
