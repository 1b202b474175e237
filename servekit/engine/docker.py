"""Docker Engine and Compose on this machine: whether they work, and the stack as Compose resolves it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from servekit.errors import EngineError
from servekit.paths import Bundle

MINIMUM_COMPOSE = (2, 20)
ANSWERS_WITHIN_S = 15
"""An engine that says nothing for so long does not work."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that answered. `compose` is `docker compose`, or the program `docker-compose` where that is missing."""

    docker: str
    compose: tuple[str, ...]
    engine_version: str
    compose_version: str

    def __str__(self) -> str:
        return f"Docker Engine {self.engine_version}, Compose {self.compose_version}"


@dataclass(frozen=True, slots=True)
class Port:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as docker-compose.yaml resolves. `ports` are the published ones, by the container's port."""

    image: str
    builds: bool
    ports: Mapping[int, Port]


@dataclass(frozen=True, slots=True)
class Container:
    """As `docker inspect` describes it. `started` is Unix time, in seconds."""

    id: str
    status: str
    started: float
    exit_code: int
    restarts: int
    out_of_memory: bool

    @property
    def running(self) -> bool:
        """Also while its restart policy starts it again."""
        return self.status in ("running", "restarting")


@dataclass(frozen=True, slots=True)
class Compose:
    """Compose commands for one bundle. `environment` is added to ours: it sets variables of docker-compose.yaml."""

    tools: Tools
    bundle: Bundle
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [*self.tools.compose, "--project-directory", str(self.bundle.root), *arguments]

    def run(self, *arguments: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """Captured. Never raises for an exit status; TimeoutExpired for one that takes longer."""
        return subprocess.run(
            self.command(*arguments),
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def services(self) -> dict[str, Service]:
        """Raises EngineError when docker-compose.yaml or .env is wrong."""
        answer = self.run("config", "--format", "json", timeout_s=ANSWERS_WITHIN_S)
        if answer.returncode != 0:
            raise EngineError(f"docker-compose.yaml: {last_line(answer.stderr)}", hint="docker compose config")
        return services_of(json.loads(answer.stdout))

    def must(self, *arguments: str) -> str:
        """stdout. Raises EngineError with Compose's own last line."""
        answer = self.run(*arguments)
        if answer.returncode != 0:
            raise EngineError(
                f"docker compose {arguments[0]}: {last_line(answer.stderr)}", hint="docker compose logs --tail 50"
            )
        return answer.stdout

    def container(self, service: str) -> Container | None:
        """The container of a service, also a stopped one."""
        answer = self.run("ps", "--all", "--quiet", service, timeout_s=ANSWERS_WITHIN_S)
        found = answer.stdout.split() if answer.returncode == 0 else []
        return inspect_container(found[0], self.tools.docker) if found else None


def services_of(document: Mapping[str, Any]) -> dict[str, Service]:
    """From `docker compose config --format json`."""
    return {
        name: Service(service["image"], "build" in service, dict(map(_port, service.get("ports", []))))
        for name, service in document["services"].items()
    }


def _port(entry: Mapping[str, Any]) -> tuple[int, Port]:
    return entry["target"], Port(entry.get("host_ip", "0.0.0.0"), int(entry["published"]))  # noqa: S104


def tools() -> Tools | str:
    """What works here, or why nothing does, in one line. Answers within seconds."""
    docker = shutil.which("docker")
    if docker is None:
        return "no docker on PATH"
    version = _answer([docker, "version", "--format", "{{.Server.Version}}"])
    if isinstance(version, str):
        return f"no Docker engine answers: {version}"
    for command in ((docker, "compose"), (shutil.which("docker-compose") or "",)):
        compose = _answer([*command, "version", "--short"]) if command[0] else "not there"
        if isinstance(compose, str):
            continue
        if version_numbers(compose[0]) < MINIMUM_COMPOSE:
            return f"Compose {compose[0]} is too old: {'.'.join(map(str, MINIMUM_COMPOSE))} is needed"
        return Tools(docker, command, version[0], compose[0].removeprefix("v"))
    return "Docker has no Compose plugin"


def version_numbers(text: str) -> tuple[int, ...]:
    """`v2.40.3-desktop.1` to (2, 40, 3)."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(number or 0) for number in match.groups()) if match else ()


def has_image(docker: str, image: str) -> bool:
    return not isinstance(_answer([docker, "image", "inspect", "--format", "{{.Id}}", image]), str)


def created(docker: str, image: str) -> float | None:
    """When it was built, in Unix time."""
    answer = _answer([docker, "image", "inspect", "--format", "{{.Created}}", image])
    return None if isinstance(answer, str) else timestamp(answer[0])


def registry_problem(docker: str, image: str) -> str | None:
    """Why `image` cannot be pulled, as its registry says; None when it can. Answers within seconds."""
    answer = _answer([docker, "manifest", "inspect", image])
    return answer if isinstance(answer, str) else None


def inspect_container(container: str, docker: str = "docker") -> Container | None:
    """None where there is no such container, or no engine."""
    answer = _answer([docker, "container", "inspect", container])
    return None if isinstance(answer, str) else container_of(json.loads("\n".join(answer))[0])


def container_of(described: Mapping[str, Any]) -> Container:
    state = described["State"]
    return Container(
        described["Id"],
        state["Status"],
        timestamp(state["StartedAt"]),
        state["ExitCode"],
        described.get("RestartCount", 0),
        state.get("OOMKilled", False),
    )


def is_running(container: str) -> bool:
    found = inspect_container(container)
    return found is not None and found.running


def timestamp(text: str) -> float:
    """Seconds since 1970 of Docker's times: RFC 3339 with up to nine digits of a second."""
    match = re.fullmatch(r"(.+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time")
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)


def last_line(text: str) -> str:
    """The line of a program's output that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _answer(command: Sequence[str]) -> list[str] | str:
    """Lines of stdout, or why there are none."""
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWERS_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWERS_WITHIN_S} s"
    except OSError as error:
        return error.strerror or str(error)
    if answer.returncode != 0:
        return last_line(answer.stderr)
    return answer.stdout.strip().splitlines() or "an empty answer"
