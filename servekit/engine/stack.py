"""The stack of docker-compose.yaml: its variables, what it publishes, up and down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from servekit.config.rendered_files import (
    CONTAINER_GRPC_PORT,
    CONTAINER_REST_PORT,
    CONTAINER_SERVER,
    GATEWAY_READ_AT_START,
    READ_AT_START,
)
from servekit.config.serving import Serving
from servekit.config.stack import variables
from servekit.engine import docker, log, preflight, state
from servekit.engine.choose import Unusable
from servekit.engine.docker import Compose, Container, Port, Service
from servekit.engine.state import EngineState
from servekit.errors import EngineError
from servekit.paths import Bundle

SERVER = CONTAINER_SERVER
GATEWAY = "gateway"
PUBLISHED = {
    "GRPC_PORT": (GATEWAY, CONTAINER_GRPC_PORT),
    "REST_PORT": (GATEWAY, CONTAINER_REST_PORT),
    "PROMETHEUS_PORT": ("prometheus", 9090),
    "GRAFANA_PORT": ("grafana", 3000),
}
"""Service and its port inside, by the variable of the port that it is published at."""

SHOW_PASSWORD = "docker compose exec grafana cat /run/grafana-password/password"  # noqa: S105  a command, no password
"""Prints what the service `setup` made."""

_OPTIONS = {"GRPC_PORT": "port", "REST_PORT": "rest-api-port"}
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Options:
    """What the person typed; None leaves it to serving.yaml and .env."""

    port: int | None = None
    rest_api_port: int | None = None
    bind: str | None = None


def environment(serving: Serving, options: Options, own: Iterable[str]) -> dict[str, str]:
    """Variables for Compose. `own` are names that the person set, in .env or outside: they win over serving.yaml."""
    wanted = variables(serving.stack)
    wanted |= {"GRPC_PORT": str(serving.server.port), "REST_PORT": str(serving.server.rest_api_port)}
    typed = {"GRPC_PORT": options.port, "REST_PORT": options.rest_api_port, "BIND_ADDR": options.bind}
    kept = {name: value for name, value in wanted.items() if name not in own}
    return kept | {name: str(value) for name, value in typed.items() if value is not None}


def own_variables(bundle: Bundle) -> frozenset[str]:
    """Names that are set in .env or in our environment. Their values are Compose's to read."""
    try:
        text = (bundle.root / ".env").read_text(errors="replace")
    except OSError:
        text = ""
    return frozenset({*os.environ, *re.findall(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", text, re.MULTILINE)})


def compose(bundle: Bundle, serving: Serving, options: Options) -> Compose | Unusable:
    """Compose with its variables, or why Docker does not work here. Answers within seconds."""
    tools = docker.tools()
    if isinstance(tools, str):
        return Unusable(tools, "servekit up --engine embedded")
    return Compose(tools, bundle, environment(serving, options, own_variables(bundle)))


def published(services: Mapping[str, Service]) -> dict[str, Port]:
    """Where clients find the stack, by variable, as far as it publishes them."""
    found = {}
    for variable, (service, inside) in PUBLISHED.items():
        if (one := services.get(service)) and (port := one.ports.get(inside)):
            found[variable] = Port(_ANYWHERE.get(port.host, port.host), port.port)
    return found


def check_ports(stack: Compose, services: Mapping[str, Service]) -> None:
    """Of services that do not run yet. Raises EngineError with the variable, or the option, that takes another port."""
    running = {name for name in services if (container := stack.container(name)) and container.running}
    for variable, (name, inside) in PUBLISHED.items():
        if name not in running and (one := services.get(name)) and (port := one.ports.get(inside)):
            host = port.host or "0.0.0.0"  # noqa: S104
            option = _OPTIONS.get(variable)
            free = preflight.free_port(host) if preflight.binding_problem(host, port.port) else 0
            way = f"servekit up --{option} {free}" if option else f"{variable}={free} in .env"
            preflight.check_port(host, port.port, f"take another one: {way}")


def engine_state(stack: Compose, services: Mapping[str, Service]) -> EngineState:
    """Of the model server's container, which is there. Raises EngineError."""
    container, ports = stack.container(SERVER), published(services)
    grpc, rest = ports.get("GRPC_PORT"), ports.get("REST_PORT")
    if container is None or grpc is None or rest is None:
        raise EngineError(f"docker-compose.yaml: {SERVER} does not run, or {GATEWAY} publishes no gRPC and REST port")
    return EngineState(
        engine="docker",
        pid=0,
        born="",
        host=f"[{rest.host}]" if ":" in rest.host else rest.host,
        grpc_host=f"[{grpc.host}]" if ":" in grpc.host else grpc.host,
        grpc_port=grpc.port,
        rest_port=rest.port,
        config_hash="",
        started=datetime.fromtimestamp(container.started, timezone.utc).isoformat(timespec="seconds"),
        log=f"docker compose logs {SERVER}",
        container=container.id,
    )


def stale_files(bundle: Bundle, service: str, container: Container) -> list[str]:
    """Rendered files that the service reads at its start only, and that were written after it."""
    names = GATEWAY_READ_AT_START if service == GATEWAY else READ_AT_START
    files = [bundle.rendered_container / name for name in names]
    return [path.name for path in files if path.is_file() and path.stat().st_mtime > container.started]


def how_it_ended(container: Container | None, restarts: int) -> str | None:
    """None while the server runs. `restarts` are those before we began to look."""
    if container is None:
        return "its container is gone"
    if container.out_of_memory:
        return "out of memory"
    if container.status not in ("running", "created", "restarting"):
        return f"exit status {container.exit_code}"
    if container.restarts > restarts or container.status == "restarting":
        return "Docker had to start it again"
    return None


def save_log(stack: Compose) -> None:
    """The server's last lines, into the file where other engines write theirs."""
    answer = stack.run("logs", "--no-color", "--no-log-prefix", "--tail", "2000", SERVER)
    with log.start_new(log.path(stack.bundle)) as output:
        output.write(answer.stdout.encode())


def end(stack: Compose, *, volumes: bool) -> None:
    """Removes containers and networks; `volumes` also metrics, dashboards' state and the password."""
    stack.must("down", *(["--volumes"] if volumes else []))
    state.remove(stack.bundle)
