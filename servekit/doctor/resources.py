"""Check `resources`: memory against the models' sizes, CPUs against thread pools, open files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.config.serving import Serving
from servekit.doctor.docker import DockerFacts
from servekit.doctor.finding import Finding, error, megabytes, note, warning
from servekit.doctor.stack import Service

SERVER_BYTES = 300 * 2**20
"""A server without models, with its thread pools."""
LOADED = 2.0
"""Memory of a loaded model by its size on disk: the weights, and the graph's own copy while it loads."""


@dataclass(frozen=True, slots=True)
class ResourceFacts:
    models_bytes: int
    """Size on disk of all versions that are loaded together."""
    largest_bytes: int
    """Of the largest of them: a roll-out loads one more."""
    memory_bytes: int
    memory_of: str
    """Whose: `limit of tfserving`, `this machine`, `limit of this container`."""
    machine_cpus: int
    cpu_limit: float
    """0: none."""
    cpu_limit_of: str
    threads_for: int | None
    """server.cpus; None for auto."""
    open_files: int


def gather(
    serving: Serving | None, service: Service | None, docker: DockerFacts, models_bytes: int, largest_bytes: int
) -> ResourceFacts:
    """`service`: the model server's, when it runs in a container."""
    memory, memory_of = _memory(service, docker)
    limit, limit_of = (
        (service.cpus, f"limit of {service.name}") if service else (_cgroup_cpus(), "limit of this container")
    )
    cpus = serving.server.cpus if serving else "auto"
    return ResourceFacts(
        models_bytes,
        largest_bytes,
        memory,
        memory_of,
        docker.cpus if service and docker.cpus else os.cpu_count() or 1,
        limit,
        limit_of,
        None if cpus == "auto" else cpus,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _memory(service: Service | None, docker: DockerFacts) -> tuple[int, str]:
    if service and service.memory_bytes and not (docker.memory_bytes and docker.memory_bytes < service.memory_bytes):
        return service.memory_bytes, f"the memory limit of {service.name}"
    if service and docker.memory_bytes:
        return docker.memory_bytes, "the engine's machine"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    return (limit, "the memory limit of this container") if limit and limit < machine else (machine, "this machine")


def _cgroup_cpus() -> float:
    """cgroup 2's `cpu.max`: quota and period in microseconds, or `max`."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return int(quota) / int(period) if quota.isdigit() else 0.0


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def judge(facts: ResourceFacts) -> Iterator[Finding]:
    need = SERVER_BYTES + LOADED * facts.models_bytes
    with_another = need + LOADED * facts.largest_bytes
    if facts.models_bytes > facts.memory_bytes > 0:
        yield error(
            "resources.memory",
            facts.memory_of,
            f"is {megabytes(facts.memory_bytes)}, and the served versions are {megabytes(facts.models_bytes)} on disk",
            "serve fewer versions, or raise the limit",
        )
    elif with_another > facts.memory_bytes > 0:
        what = "the served versions" if need > facts.memory_bytes else "a roll-out, which loads one more version,"
        yield warning(
            "resources.memory-tight",
            facts.memory_of,
            f"is {megabytes(facts.memory_bytes)}; {what} may need about "
            f"{megabytes(need if need > facts.memory_bytes else with_another)}",
            "serve fewer versions, or raise the limit",
        )
    cores = facts.threads_for or facts.machine_cpus
    if 0 < facts.cpu_limit < cores:
        said = f"server.cpus is {facts.threads_for}" if facts.threads_for else f"the server counts {cores} CPUs"
        yield warning(
            "resources.cpus",
            facts.cpu_limit_of,
            f"is {facts.cpu_limit:g} CPUs and {said}: more threads than CPUs throttle each other",
            f"server.cpus: {max(1, int(facts.cpu_limit))} in serving.yaml, then servekit render and a new start",
        )
    elif facts.threads_for and facts.threads_for > facts.machine_cpus:
        yield warning(
            "resources.cpus",
            "server.cpus",
            f"is {facts.threads_for}, the machine has {facts.machine_cpus} CPUs",
            "server.cpus: auto in serving.yaml",
        )
    if facts.open_files < 1024:
        yield note(
            "resources.open-files",
            f"limit {facts.open_files}",
            "few open files: every connection is one",
            "ulimit -n 65536",
        )


def looked_at(facts: ResourceFacts) -> str:
    return (
        f"{megabytes(facts.models_bytes)} of models, {megabytes(facts.memory_bytes)} of memory, "
        f"{facts.machine_cpus} CPUs"
    )
