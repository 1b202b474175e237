"""Section `monitoring`: the metrics page that Prometheus reads, on the REST port."""

from __future__ import annotations

import re
from collections.abc import Iterator

from servekit.config.section import Finding, Section, shown

DEFAULT_PATH = "/monitoring/prometheus/metrics"
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Monitoring(Section):
    enabled: bool = True
    """Serve metrics at all."""

    path: str = DEFAULT_PATH
    """Where, on the REST port."""

    def findings(self) -> Iterator[Finding]:
        if not _PATH.fullmatch(self.path):
            yield Finding(("path",), f"should be a path such as {DEFAULT_PATH}, is {shown(self.path)}")
        elif self.path.lower() == "/v1" or self.path.lower().startswith("/v1/"):
            yield Finding(("path",), f"{self.path} belongs to the REST API", f"use {DEFAULT_PATH}")
