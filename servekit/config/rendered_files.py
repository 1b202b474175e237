"""Names of the files that are rendered, and what a container calls their places."""

from __future__ import annotations

from pathlib import PurePosixPath

MODELS = "models.config"
BATCHING = "batching.config"
MONITORING = "monitoring.config"
SCRAPE_TARGETS = "scrape_targets.yml"
START = "start.sh"
HEALTHCHECK = "healthcheck.sh"

READ_AT_START = (BATCHING, MONITORING, START)
"""A running model server does not see a change of these; of models.config it does."""

CONTAINER = "container"
"""Folder of config/rendered with the container's paths; Compose mounts it as CONTAINER_CONFIG."""
CONTAINER_CONFIG = PurePosixPath("/etc/servekit")
CONTAINER_MODELS = PurePosixPath("/models")
CONTAINER_PROCESS = PurePosixPath("/run/server-process")
"""Where the health check copies files of /proc about the server."""
CONTAINER_GRPC_PORT, CONTAINER_REST_PORT = 8500, 8501
"""Compose publishes them as server.port and server.rest_api_port."""
CONTAINER_REST = f"tfserving:{CONTAINER_REST_PORT}"
"""The model server as Prometheus sees it beside it in Compose."""
