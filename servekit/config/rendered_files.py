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

GATEWAY_BOOTSTRAP = "gateway/envoy.yaml"
GATEWAY_START = "gateway/start.sh"
GATEWAY_HEALTHCHECK = "gateway/healthcheck.sh"
GATEWAY_READ_AT_START = (GATEWAY_BOOTSTRAP, GATEWAY_START)
"""The gateway reads these when it starts; its routes whenever they change."""

CONTAINER = "container"
"""Folder of config/rendered with the container's paths; Compose mounts it as CONTAINER_CONFIG."""
CONTAINER_CONFIG = PurePosixPath("/etc/servekit")
CONTAINER_MODELS = PurePosixPath("/models")
CONTAINER_PROCESS = PurePosixPath("/run/server-process")
"""Where the health check copies files of /proc about the server."""
CONTAINER_GRPC_PORT, CONTAINER_REST_PORT = 8500, 8501
"""Of the model server, and of the gateway before it, which Compose publishes as server.port and rest_api_port."""
CONTAINER_GATEWAY_METRICS_PORT, CONTAINER_GATEWAY_ADMIN_PORT = 9901, 9902
"""Of the gateway; the second listens inside its container alone."""
CONTAINER_SERVER = "tfserving"
CONTAINER_REST = f"{CONTAINER_SERVER}:{CONTAINER_REST_PORT}"
"""The model server as Prometheus sees it beside it in Compose."""
