"""Check `docker`: the command line, the engine behind it, Compose, and the traps of their versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from servekit.doctor.finding import Finding, Severity, note, warning
from servekit.doctor.programs import Answer, ask
from servekit.engine.docker import MINIMUM_COMPOSE

OLDEST_ENGINE = (20, 10)
"""The oldest that the stack was run on; Compose 2.40 and 5.6 work with it."""


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """`cli` is None without a docker command; the engine's facts are empty when it does not answer (`problem`)."""

    cli: str | None
    problem: str | None = None
    host: str = ""
    """DOCKER_HOST, where it is set."""
    engine: str = ""
    api: str = ""
    compose: str = ""
    compose_command: tuple[str, ...] = ("docker", "compose")
    """Or the program docker-compose, where the plugin is missing."""
    compose_problem: str | None = None
    buildx: bool = False
    root_dir: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    architecture: str = ""
    cgroup_version: str = ""
    runtimes: tuple[str, ...] = ()
    rootless: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        return self.cli is not None and self.problem is None


def gather() -> DockerFacts:
    cli = shutil.which("docker")
    if cli is None:
        return DockerFacts(None)
    with ThreadPoolExecutor(4) as pool:
        version = pool.submit(ask, ["docker", "version", "--format", "{{json .Server}}"])
        info = pool.submit(ask, ["docker", "info", "--format", "{{json .}}"])
        compose = pool.submit(_ask_compose)
        buildx = pool.submit(ask, ["docker", "buildx", "version"])
        return read(cli, version.result(), info.result(), *compose.result(), buildx.result())


def _ask_compose() -> tuple[tuple[str, ...], Answer]:
    plugin = ("docker", "compose")
    answer = ask([*plugin, "version", "--short"])
    if not answer.ok and (program := ask(["docker-compose", "version", "--short"])).ok:
        return ("docker-compose",), program
    return plugin, answer


def read(
    cli: str, version: Answer, info: Answer, command: tuple[str, ...], compose: Answer, buildx: Answer
) -> DockerFacts:
    """Facts from what the commands answered; `command` is the one that `compose` came from."""
    composed = re.search(r"\d+\.\d+\S*", compose.out) if compose.ok else None
    server: Mapping[str, Any] | None = version.document() if version.ok else None
    about: Mapping[str, Any] = (info.document() if info.ok else None) or {}
    return DockerFacts(
        cli,
        problem=None if server else version.complaint(),
        host=os.environ.get("DOCKER_HOST", ""),
        engine=(server or {}).get("Version", ""),
        api=(server or {}).get("ApiVersion", ""),
        compose=composed[0].lstrip("v") if composed else "",
        compose_command=command,
        compose_problem=None if composed else compose.complaint(),
        buildx=buildx.ok,
        root_dir=about.get("DockerRootDir") or "",
        cpus=about.get("NCPU") or 0,
        memory_bytes=about.get("MemTotal") or 0,
        architecture=about.get("Architecture") or "",
        cgroup_version=about.get("CgroupVersion") or "",
        runtimes=tuple(about.get("Runtimes") or ()),
        rootless=any("rootless" in option for option in about.get("SecurityOptions") or ()),
        warnings=tuple(about.get("Warnings") or ()),
    )


def judge(facts: DockerFacts, *, needed: bool, is_mac: bool = platform.system() == "Darwin") -> Iterator[Finding]:
    """`needed`: no other engine works here, or this one was asked for. Otherwise its absence is no mistake."""
    lack = Severity.ERROR if needed else Severity.NOTE
    if facts.cli is None:
        yield Finding(
            "docker.missing",
            lack,
            "docker",
            "no docker command on PATH",
            "install Docker Engine, or run without it: servekit up --engine embedded",
        )
        return
    if facts.problem is not None:
        yield _unreachable(facts, lack, is_mac)
    else:
        yield from _engine(facts)
    yield from _compose(facts, lack)


def _unreachable(facts: DockerFacts, lack: Severity, is_mac: bool) -> Finding:
    problem = facts.problem or ""
    place = facts.host or "docker engine"
    if "permission denied" in problem.lower():
        return Finding(
            "docker.permission",
            lack,
            place,
            f"this user may not talk to it: {problem}",
            'sudo usermod -aG docker "$USER", then log in again',
        )
    if facts.host:
        remedy = "unset DOCKER_HOST, or start the engine that it names"
    else:
        remedy = "start Docker Desktop" if is_mac else "sudo systemctl start docker"
    return Finding("docker.engine-down", lack, place, f"does not answer: {problem}", remedy)


def _engine(facts: DockerFacts) -> Iterator[Finding]:
    place = f"docker engine {facts.engine}"
    if (known := numbers(facts.engine)) and known < OLDEST_ENGINE:
        yield warning(
            "docker.engine-old",
            place,
            "is older than 20.10, the oldest that the stack was tried on",
            "install a newer Docker Engine",
        )
    if facts.architecture not in ("", "x86_64", "amd64"):
        yield warning(
            "docker.architecture",
            place,
            f"runs on {facts.architecture}; TensorFlow Serving's images are for amd64 only, and an emulated "
            "one may end with Illegal instruction",
            "servekit up --engine embedded",
        )
    if facts.rootless:
        yield note(
            "docker.rootless",
            place,
            "is rootless: files of models/ belong to root inside the container, ports below 1024 are closed, "
            "and limits need cgroup 2 with delegation"
            + ("" if facts.cgroup_version == "2" else f" (this is cgroup {facts.cgroup_version})"),
            "docker info --format '{{.CgroupDriver}} {{.CgroupVersion}}'",
        )
    lost = [text.removeprefix("WARNING: ") for text in facts.warnings if _is_lost_limit(text)]
    if lost:
        yield warning(
            "docker.no-limits",
            place,
            f"cannot enforce limits of the stack: {'; '.join(lost)}",
            "enable the memory and cpu cgroup controllers (kernel command line: cgroup_enable=memory)",
        )


def _is_lost_limit(text: str) -> bool:
    """Swap accounting is off on most machines and no limit of ours."""
    return bool(re.search(r"No (memory limit|cpu cfs (quota|period)|cpu shares|pids limit) support", text, re.I))


def _compose(facts: DockerFacts, lack: Severity) -> Iterator[Finding]:
    if not facts.compose:
        yield Finding(
            "docker.compose-missing",
            lack,
            "docker compose",
            f"the Compose plugin is missing ({facts.compose_problem})",
            "sudo apt-get install docker-compose-plugin (Debian's own: docker-compose)",
        )
        return
    known = numbers(facts.compose)
    if known and known < MINIMUM_COMPOSE:
        yield Finding(
            "docker.compose-old",
            lack,
            f"docker compose {facts.compose}",
            f"is older than {'.'.join(map(str, MINIMUM_COMPOSE))}",
            "sudo apt-get install docker-compose-plugin",
        )
    if not facts.buildx:
        yield note(
            "docker.no-buildx",
            f"docker compose {facts.compose}",
            "the buildx plugin is missing: images are built by the classic builder, and DOCKER_BUILDKIT=1 fails",
            "sudo apt-get install docker-buildx-plugin (Debian's own: docker-buildx)",
        )


def numbers(version: str) -> tuple[int, ...]:
    """`v2.40.3-desktop.1` to (2, 40, 3); () where it does not begin with numbers."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()


def looked_at(facts: DockerFacts) -> str:
    if not facts.works:
        return ""
    return f"engine {facts.engine}, API {facts.api}, Compose {facts.compose or 'missing'}"
