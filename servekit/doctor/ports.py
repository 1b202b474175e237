"""Check `ports`: free, ours, or somebody else's."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from servekit.config.serving import Serving
from servekit.doctor.finding import Finding, error, note
from servekit.doctor.programs import ask
from servekit.doctor.stack import StackFacts
from servekit.engine import preflight
from servekit.engine.state import EngineState


@dataclass(frozen=True, slots=True)
class PortFacts:
    """`problem` is the errno of an attempt to listen, None where that worked; `owner` as far as the system tells."""

    port: int
    host: str
    purpose: str
    change: str
    """How to take another one."""
    problem: int | None
    owner: str | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class WantedPort:
    port: int
    host: str
    purpose: str
    change: str


def wanted(serving: Serving | None, stack: StackFacts, *, in_containers: bool) -> list[WantedPort]:
    """Ports that a start would take: the stack's, or those of a server that runs here itself."""
    if in_containers:
        return [
            WantedPort(port.port, port.host_ip, f"{service.name}, port {port.target}", "the port's variable in .env")
            for service in stack.services
            for port in service.ports
        ]
    if serving is None:
        return []
    server = serving.server
    return [
        WantedPort(server.port, "127.0.0.1", "gRPC", "servekit up --port {free}"),
        WantedPort(server.rest_api_port, "127.0.0.1", "REST", "servekit up --rest-api-port {free}"),
    ]


def gather(ports: Iterable[WantedPort], running: EngineState | None, stack: StackFacts) -> list[PortFacts]:
    ours = {port for one in stack.containers for port in one.ports}
    ours |= {running.grpc_port, running.rest_port} if running else set()
    return [_observe(port, port.port in ours) for port in ports]


def _observe(port: WantedPort, ours: bool) -> PortFacts:
    problem = None if ours else preflight.binding_problem(port.host, port.port)
    owner = None
    if problem == errno.EADDRINUSE:
        owner = preflight.port_owner(port.port)
        if owner is None or owner.startswith("docker-proxy"):
            names = ask(["docker", "ps", "--filter", f"publish={port.port}", "--format", "{{.Names}}"])
            owner = f"container {names.out.split()[0]}" if names.ok and names.out.strip() else owner
    change = port.change.format(free=preflight.free_port(port.host)) if problem else port.change
    return PortFacts(port.port, port.host, port.purpose, change, problem, owner, ours)


def judge(ports: Iterable[PortFacts], state: EngineState | None) -> Iterator[Finding]:
    """`state`: the server that `up` left running, which may listen elsewhere than serving.yaml says."""
    for port in ports:
        place = f"port {port.port} ({port.purpose})"
        if port.problem == errno.EADDRINUSE:
            by = f" by {port.owner}" if port.owner else ""
            yield error("ports.taken", place, f"is in use{by}, which is not this bundle's server", port.change)
        elif port.problem in (errno.EACCES, errno.EPERM):
            yield error("ports.forbidden", place, "needs root: it is below 1024", port.change)
        elif port.problem == errno.EADDRNOTAVAIL:
            yield error(
                "ports.no-such-address",
                place,
                f"{port.host} is no address of this machine",
                "BIND_ADDR=127.0.0.1 in .env, or servekit up --bind 127.0.0.1",
            )
    if state and ports and not {state.grpc_port, state.rest_port} & {port.port for port in ports}:
        yield note(
            "ports.elsewhere",
            f"{state.engine} server, {state.where}",
            f"listens on {state.grpc_port} and {state.rest_port}, not on the ports of serving.yaml",
            "servekit status",
        )


def looked_at(ports: Iterable[PortFacts]) -> str:
    words = (f"{port.port} {'ours' if port.ours else 'free' if port.problem is None else 'taken'}" for port in ports)
    return ", ".join(words)
