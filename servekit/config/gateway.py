"""Section `gateway`: Envoy in front of the model server, which labels requests that name no version and no label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from servekit.config.section import Either, Section, is_int

_AUTO_PORT: dict[str, Any] = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 65535}]}
AutoPort = Annotated[
    int | Literal["auto"],
    Either(
        "auto or a port from 1 to 65535",
        lambda value: value == "auto" or is_int(value, 1, 65535),
        _AUTO_PORT,
    ),
]


class Gateway(Section):
    """It answers on server.port and server.rest_api_port; the model server listens behind it."""

    enabled: bool = True
    """false: clients reach the model server itself, and unlabelled requests get its highest version."""

    server_port: AutoPort = "auto"
    """gRPC of the model server behind it, on 127.0.0.1; auto: a free port. Containers have a network of their own."""

    server_rest_api_port: AutoPort = "auto"
    """REST of the model server behind it; likewise."""

    metrics_port: AutoPort = "auto"
    """The gateway's own metrics for Prometheus, on 127.0.0.1."""

    max_request_mib: Annotated[int, Field(ge=1, le=1024)] = 64
    """Larger requests are refused: 413, RESOURCE_EXHAUSTED."""

    max_requests: Annotated[int, Field(ge=1, le=10**6)] = 1024
    """Requests under way at once by one protocol to stable, to canary, and to all else; more are refused: 503,
    UNAVAILABLE."""

    max_memory_mib: Annotated[int, Field(ge=128, le=2**20)] = 1024
    """Requests are kept whole while they are looked at; from 95 % of this much memory on new ones are refused: 503."""

    retries: Annotated[int, Field(ge=0, le=10)] = 1
    """Further attempts for requests that never reached the server (connection refused or reset)."""

    deadline_ms: Annotated[int, Field(ge=1, le=2**31 - 1)] = 60_000
    """The longest that a request may take when the client says no shorter deadline: 504, DEADLINE_EXCEEDED."""
