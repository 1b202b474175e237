"""Check `compose`: what would keep `docker compose up` from starting, and what its containers died of."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.doctor.docker import DockerFacts
from servekit.doctor.finding import Finding, error, listed, note, warning
from servekit.doctor.programs import ask
from servekit.doctor.stack import Container, Service, StackFacts


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What services ask of this machine: paths that exist (is it a folder?), secrets' modes, images, limits."""

    folders: Mapping[str, bool | None]
    """Source of a bind mount: a folder, a file, or (None) missing."""
    secret_modes: Mapping[str, int | None]
    images: frozenset[str] | None
    """Of those that services name, the ones present here; None without an engine."""
    cpus: int
    nofile: int
    """Hard limit of open files."""


def gather(stack: StackFacts, docker: DockerFacts) -> HostFacts:
    sources = {mount.source for service in stack.services for mount in service.mounts}
    secrets = {file for service in stack.services for file in service.secrets}
    images: frozenset[str] | None = None
    if docker.works:
        wanted = sorted({service.image for service in stack.services if service.image})
        images = frozenset(
            image for image in wanted if ask(["docker", "image", "inspect", "--format", "{{.Id}}", image]).ok
        )
    return HostFacts(
        {source: Path(source).is_dir() if Path(source).exists() else None for source in sources},
        {file: Path(file).stat().st_mode & 0o777 if Path(file).exists() else None for file in secrets},
        images,
        docker.cpus or os.cpu_count() or 1,
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def judge(stack: StackFacts, host: HostFacts, *, file: str = "docker-compose.yaml") -> Iterator[Finding]:
    if stack.problem:
        yield error("compose.invalid", file, stack.problem, "docker compose config --quiet, then correct .env")
    for service in stack.services:
        place = f"{file}: {service.name}"
        yield from _mounts(service, place, host)
        yield from _limits(service, place, host)
        yield from _ports(service, place)
        yield from _secrets(service, place, host)
    yield from _images(stack, host, file)
    for container in stack.containers:
        yield from _container(container, stack)


def _mounts(service: Service, place: str, host: HostFacts) -> Iterator[Finding]:
    for mount in service.mounts:
        kind = host.folders.get(mount.source)
        if kind is False:
            yield warning(
                "compose.single-file-mount",
                place,
                f"mounts the single file {mount.source}: a file that is replaced by a rename stays the old one "
                "inside the container",
                f"mount the folder: {Path(mount.source).parent}",
            )
        elif kind is None and mount.creates_source:
            yield warning(
                "compose.mount-missing",
                place,
                f"mounts {mount.source}, which does not exist: Docker would make an empty folder of root there",
                f"mkdir -p {mount.source}",
            )
        elif kind is None:
            yield error(
                "compose.mount-missing",
                place,
                f"mounts {mount.source}, which does not exist: it will not start",
                f"mkdir -p {mount.source}",
            )


def _limits(service: Service, place: str, host: HostFacts) -> Iterator[Finding]:
    if service.cpus > host.cpus:
        yield error(
            "compose.too-many-cpus",
            place,
            f"may use {service.cpus:g} CPUs and the engine has {host.cpus}: the container does not start",
            f"set its CPU limit to {host.cpus} or less in .env or serving.yaml",
        )
    if host.nofile not in (-1, resource.RLIM_INFINITY) and service.nofile > host.nofile:
        yield error(
            "compose.too-many-files",
            place,
            f"asks for {service.nofile} open files, the hard limit here is {host.nofile}: the container may not start",
            f"lower it to {host.nofile}, or raise LimitNOFILE of docker.service",
        )


def _ports(service: Service, place: str) -> Iterator[Finding]:
    for port in service.ports:
        if port.host_ip in ("0.0.0.0", "::"):  # noqa: S104
            yield warning(
                "compose.open-port",
                place,
                f"port {port.port} is open on every interface, without TLS or a login, past the host's "
                "firewall (Docker writes its own rules)",
                "127.0.0.1 for it in .env (BIND_ADDR, GRPC_BIND_ADDR, PROMETHEUS_BIND_ADDR), and a proxy with TLS in "
                "front",
            )


def _secrets(service: Service, place: str, host: HostFacts) -> Iterator[Finding]:
    for file in service.secrets:
        mode = host.secret_modes.get(file)
        if mode is None:
            yield error("compose.secret-missing", place, f"its secret {file} does not exist", f"write {file}")
        elif service.user.split(":")[0] not in ("", "0", "root") and not mode & 0o044:
            yield error(
                "compose.secret-mode",
                place,
                f"runs as user {service.user} and cannot read its secret {file} (mode {mode:04o})",
                f"chmod 0444 {file}",
            )


def _images(stack: StackFacts, host: HostFacts, file: str) -> Iterator[Finding]:
    if host.images is None:
        return
    for service in stack.services:
        if service.image and service.image not in host.images:
            do = "docker compose build " + service.name if service.builds else "docker compose pull " + service.name
            yield note(
                "compose.image-absent",
                f"{file}: {service.name}",
                f"the image {service.image} is not on this machine; `docker compose up` fetches or builds it, "
                "which needs a network",
                do,
            )


_SIGNALS = {
    132: "Illegal instruction: the binary uses CPU instructions that this machine lacks",
    134: "it aborted: TF Serving does that on a bad ssl_config_file or a custom_model_config",
    137: "it was killed: by `docker stop` after its grace period, or for lack of memory",
    139: "segmentation fault: TF Serving does that on max_batch_size 0, max_execution_batch_size above max_batch_size, "
    "and --enable_serialization_as_tensor_content",
}


def _container(container: Container, stack: StackFacts) -> Iterator[Finding]:
    place = f"container {container.name}"
    logs = f"docker compose logs --tail 50 {container.service}"
    if container.out_of_memory:
        yield error(
            "compose.out-of-memory",
            place,
            "was killed because it reached its memory limit",
            "raise the service's memory limit in .env or serving.yaml",
        )
    elif container.state == "restarting" or (container.restarts > 2 and container.state != "running"):
        yield error(
            "compose.restarting",
            place,
            f"ends again and again ({container.restarts} restarts, last exit status "
            f"{container.exit_code})" + _why(container.exit_code),
            logs,
        )
    elif container.state in ("exited", "dead") and container.exit_code not in (0, 143):
        yield error(
            "compose.ended", place, f"ended with exit status {container.exit_code}" + _why(container.exit_code), logs
        )
    elif container.state == "created":
        yield warning(
            "compose.never-started",
            place,
            "was created and has not started: what it waits for has not become healthy",
            "docker compose ps; docker compose logs setup tfserving",
        )
    if container.health == "unhealthy":
        yield error("compose.unhealthy", place, "its health check fails", logs)
    service = next((one for one in stack.services if one.name == container.service), None)
    if service and container.state == "running" and service.image and container.image != service.image:
        yield warning(
            "compose.other-image",
            place,
            f"runs {container.image}, configured is {service.image}",
            "docker compose up -d",
        )


def _why(status: int) -> str:
    return f": {_SIGNALS[status]}" if status in _SIGNALS else ""


def looked_at(stack: StackFacts) -> str:
    if not stack.services:
        return ""
    running = [one.service for one in stack.containers if one.state == "running"]
    return f"services {listed((one.name for one in stack.services), 6)}; running: {listed(running, 6) or 'none'}"
