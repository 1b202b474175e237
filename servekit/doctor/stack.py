"""What Compose makes of docker-compose.yaml and .env, and the containers that run of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from servekit.doctor.programs import Answer, ask
from servekit.engine.stack import SERVER


@dataclass(frozen=True, slots=True)
class Mount:
    source: str
    target: str
    creates_source: bool
    """Docker makes a folder of root where the source is missing."""


@dataclass(frozen=True, slots=True)
class Published:
    host_ip: str
    port: int
    target: int


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the active profiles, with every ${VARIABLE} filled in."""

    name: str
    image: str
    builds: bool = False
    user: str = ""
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Published, ...] = ()
    cpus: float = 0
    """0: no limit."""
    memory_bytes: int = 0
    nofile: int = 0
    secrets: tuple[str, ...] = ()
    """Files on this machine."""
    wants_gpu: bool = False
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    service: str
    name: str
    state: str
    """running, exited, restarting, ..."""
    health: str
    exit_code: int
    image: str
    ports: frozenset[int] = frozenset()
    """Published on this machine."""
    out_of_memory: bool = False
    restarts: int = 0
    mounts: Mapping[str, str] | None = None
    """Folder on this machine to folder in the container."""
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class StackFacts:
    """Empty without docker-compose.yaml or without Compose; `problem` is Compose's own complaint."""

    problem: str | None = None
    services: tuple[Service, ...] = ()
    containers: tuple[Container, ...] = ()

    def server(self) -> Service | None:
        return next((service for service in self.services if service.name == SERVER), None)

    def server_container(self) -> Container | None:
        return next((one for one in self.containers if one.service == SERVER), None)


def gather(root: Path, compose: Sequence[str] | None, environment: Mapping[str, str], *, engine: bool) -> StackFacts:
    """`compose`: the command, None without one; `environment`: variables for it; `engine`: whether it answers."""
    if compose is None or not any((root / name).is_file() for name in ("docker-compose.yaml", "compose.yaml")):
        return StackFacts()
    with ThreadPoolExecutor(2) as pool:
        resolved = pool.submit(ask, [*compose, "config", "--format", "json"], cwd=root, environment=environment)
        listing = (
            None
            if not engine
            else pool.submit(ask, [*compose, "ps", "--all", "--format", "json"], cwd=root, environment=environment)
        )
        config = resolved.result()
        containers = read_containers(listing.result().documents()) if listing else ()
    if engine and containers:
        inspected = ask(["docker", "inspect", *(one.id for one in containers)]).documents()
        containers = with_details(containers, inspected)
    document = config.document() if config.ok else None
    if not isinstance(document, dict):
        return StackFacts(problem=_complaint(config), containers=containers)
    return StackFacts(services=read_services(document), containers=containers)


def _complaint(answer: Answer) -> str:
    """Warnings about unset variables come before the error, which may have several lines."""
    lines = [line.strip() for line in answer.err.splitlines() if line.strip() and "level=warning" not in line]
    return " ".join(lines)[:400] if lines else answer.complaint()


def read_services(document: Mapping[str, Any]) -> tuple[Service, ...]:
    """From `docker compose config --format json`."""
    secrets = {name: entry.get("file", "") for name, entry in (document.get("secrets") or {}).items()}
    return tuple(_service(name, entry, secrets) for name, entry in (document.get("services") or {}).items())


def _service(name: str, entry: Mapping[str, Any], secrets: Mapping[str, str]) -> Service:
    resources = (entry.get("deploy") or {}).get("resources") or {}
    limits = resources.get("limits") or {}
    nofile = (entry.get("ulimits") or {}).get("nofile") or 0
    devices = (resources.get("reservations") or {}).get("devices") or ()
    used = (use.get("source", "") if isinstance(use, dict) else use for use in entry.get("secrets") or ())
    return Service(
        name,
        entry.get("image") or "",
        builds=bool(entry.get("build")),
        user=str(entry.get("user") or ""),
        mounts=tuple(_mount(volume) for volume in entry.get("volumes") or () if volume.get("type") == "bind"),
        ports=tuple(_ports(entry.get("ports") or ())),
        cpus=float(limits.get("cpus") or entry.get("cpus") or 0),
        memory_bytes=_bytes(limits.get("memory") or entry.get("mem_limit") or 0),
        nofile=int(nofile.get("hard", 0) if isinstance(nofile, dict) else nofile),
        secrets=tuple(file for source in used if (file := secrets.get(source))),
        wants_gpu=bool(entry.get("gpus")) or any("gpu" in (one.get("capabilities") or ()) for one in devices),
        environment={key: str(value) for key, value in (entry.get("environment") or {}).items() if value is not None},
    )


def _mount(volume: Mapping[str, Any]) -> Mount:
    creates = (volume.get("bind") or {}).get("create_host_path", False)
    return Mount(volume.get("source", ""), volume.get("target", ""), bool(creates))


def _ports(entries: Sequence[Mapping[str, Any]]) -> Iterable[Published]:
    for entry in entries:
        if str(entry.get("published", "")).isdigit():
            yield Published(entry.get("host_ip") or "0.0.0.0", int(entry["published"]), int(entry["target"]))  # noqa: S104


_UNITS = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30}


def _bytes(value: int | str) -> int:
    """Compose prints numbers of bytes as text; older ones keep `8G`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    return int(float(found[1]) * _UNITS.get(found[2].replace("ib", "b"), 1)) if found else 0


def read_containers(listing: Sequence[Mapping[str, Any]]) -> tuple[Container, ...]:
    """From `docker compose ps --all --format json`."""
    return tuple(
        Container(
            id=entry.get("ID", ""),
            service=entry.get("Service", ""),
            name=entry.get("Name", ""),
            state=entry.get("State", ""),
            health=entry.get("Health", ""),
            exit_code=int(entry.get("ExitCode") or 0),
            image=entry.get("Image", ""),
            ports=frozenset(
                int(one["PublishedPort"]) for one in entry.get("Publishers") or () if one.get("PublishedPort")
            ),
        )
        for entry in listing
    )


def with_details(containers: Sequence[Container], inspected: Sequence[Mapping[str, Any]]) -> tuple[Container, ...]:
    """Adds what only `docker inspect` knows."""
    by_id = {entry.get("Id", ""): entry for entry in inspected}
    return tuple(
        _detailed(one, next((e for key, e in by_id.items() if key.startswith(one.id)), {})) for one in containers
    )


def _detailed(container: Container, entry: Mapping[str, Any]) -> Container:
    state = entry.get("State") or {}
    return Container(
        container.id,
        container.service,
        container.name,
        container.state,
        container.health,
        container.exit_code,
        container.image,
        container.ports,
        out_of_memory=bool(state.get("OOMKilled")),
        restarts=int(entry.get("RestartCount") or 0),
        mounts={mount.get("Source", ""): mount.get("Destination", "") for mount in entry.get("Mounts") or ()},
        started=_moment(state.get("StartedAt") or ""),
    )


def _moment(text: str) -> datetime | None:
    """`2026-11-22T06:41:07.123456789Z`; the year 1 of one that never started is none."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    return datetime.fromisoformat(f"{found[1]}+00:00") if found and not text.startswith("0001") else None
