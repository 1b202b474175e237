"""All checks by name, and running them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from servekit.doctor import (
    compose,
    disk,
    docker,
    gpu,
    labels,
    log,
    permissions,
    ports,
    rendered,
    resources,
    servers,
    serving_yaml,
    settings,
    tensorflow,
    versions,
)
from servekit.doctor.finding import Examined, Finding, Severity, error, examined
from servekit.doctor.model_folders import loaded_bytes
from servekit.doctor.surroundings import Surroundings
from servekit.engine import log as server_log
from servekit.errors import ServekitError

CONTAINER_USER = "10001:10001"
"""The model server's, when Compose does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    about: str
    examine: Callable[[Surroundings], Examined]


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    about: str
    seconds: float
    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]


def _config(here: Surroundings) -> Examined:
    return examined(serving_yaml.judge(here.config), serving_yaml.looked_at(here.config))


def _rendered(here: Surroundings) -> Examined:
    facts = rendered.gather(
        here.bundle,
        here.serving,
        in_containers=here.in_containers,
        started=here.started,
        container=here.container,
    )
    return examined(rendered.judge(facts), rendered.looked_at(facts))


def _versions(here: Surroundings) -> Examined:
    flag = here.serving.server.flags.get("saved_model_tags") if here.serving else None
    tags = frozenset(str(flag or "serve").split(","))
    return examined(versions.judge(here.models, tags=tags), versions.looked_at(here.models))


def _tensorflow(here: Surroundings) -> Examined:
    found = tensorflow.judge(here.models, here.server_version)
    return examined(found, tensorflow.looked_at(here.models, here.server_version))


def _permissions(here: Surroundings) -> Examined:
    user = (here.service.user or "0") if here.service else CONTAINER_USER if here.in_containers else None
    root = here.bundle.root
    folders = [here.bundle.rendered_container if user is not None else here.bundle.rendered]
    folders += [here.bundle.models / name for name in sorted(here.only_models)] or [here.bundle.models]
    facts = permissions.gather(folders, root, user=user)
    return examined(permissions.judge(facts), permissions.looked_at(facts))


def _engine(here: Surroundings) -> Examined:
    return examined(
        servers.judge(here.engines), servers.looked_at(here.engines, here.container.name if here.container else None)
    )


def _docker(here: Surroundings) -> Examined:
    needed = here.engine == "docker" or here.engines.engines in ((), ("docker",))
    return examined(docker.judge(here.docker, needed=needed), docker.looked_at(here.docker))


def _compose(here: Surroundings) -> Examined:
    host = compose.gather(here.stack, here.docker)
    return examined(compose.judge(here.stack, host), compose.looked_at(here.stack))


def _ports(here: Surroundings) -> Examined:
    running = here.engines.running
    wanted = ports.wanted(here.serving, here.stack, in_containers=here.in_containers)
    left = here.engines.ended  # its gateway may still have the ports; `up` ends it first
    with_gateway = left if left and left.gateway and left.gateway.is_running() else None
    facts = ports.gather(wanted, running or with_gateway, here.stack)
    return examined(ports.judge(facts, running), ports.looked_at(facts))


def _disk(here: Surroundings) -> Examined:
    folders = {"models": here.bundle.models, "logs and exports": here.bundle.state}
    if here.docker.root_dir and Path(here.docker.root_dir).exists():  # not on this machine with Docker Desktop
        folders["images and metrics"] = Path(here.docker.root_dir)
    facts = disk.gather(folders)
    return examined(disk.judge(facts), disk.looked_at(facts))


def _resources(here: Surroundings) -> Examined:
    sizes = [one.size_bytes for model in here.all_models for one in model.versions]
    total, largest = loaded_bytes(here.all_models), max(sizes, default=0)
    facts = resources.gather(here.serving, here.service, here.docker, total, largest)
    return examined(resources.judge(facts), resources.looked_at(facts))


def _gpu(here: Surroundings) -> Examined:
    release = here.server_version.release if here.server_version else ()
    facts = gpu.gather(here.stack, here.docker, release)
    return examined(gpu.judge(facts), gpu.looked_at(facts))


def _settings(here: Surroundings) -> Examined:
    running = here.engines.running
    if running and running.engine != "docker":
        facts = settings.of_process(running)
    else:
        facts = settings.of_container(here.container) if here.container else None
    return examined(settings.judge(facts), settings.looked_at(facts)) if facts else examined(())


def _labels(here: Surroundings) -> Examined:
    files = here.bundle.rendered_container if here.container else here.bundle.rendered
    facts = labels.gather(here.url, files / "models.config", here.serving, here.config.source)
    return examined(labels.judge(facts), labels.looked_at(facts))


def _log(here: Surroundings) -> Examined:
    running, container = here.engines.running, here.stack.server_container()
    if running and running.engine != "docker":
        facts = log.read_file(Path(running.log), live=True)
    elif container is not None:
        facts = log.read_container(container.id, container.name)
    elif (last := server_log.path(here.bundle)).exists() and here.engines.ended:
        facts = log.read_file(last)
    else:
        return examined(())
    return examined(log.judge(facts), log.looked_at(facts))


CHECKS: Mapping[str, Check] = {
    "config": Check("serving.yaml, by itself and against the model folders", _config),
    "versions": Check("version folders that are ignored, not whole, or not loadable", _versions),
    "tensorflow": Check("models written by a newer TensorFlow than the server's", _tensorflow),
    "permissions": Check("files that the server's user may not read; links; umask; SELinux", _permissions),
    "rendered": Check("config/rendered against serving.yaml and against what the container sees", _rendered),
    "engine": Check("what can serve here, what runs, servers that nobody remembers", _engine),
    "docker": Check("Docker Engine, its API, Compose and their traps", _docker),
    "compose": Check("docker-compose.yaml and .env as resolved, images, containers", _compose),
    "ports": Check("free, ours, or somebody else's", _ports),
    "disk": Check("room for models, logs, images and metrics", _disk),
    "resources": Check("memory against models, CPUs against thread pools", _resources),
    "gpu": Check("driver, NVIDIA runtime and GPU generation against the image", _gpu),
    "settings": Check("flags of the running server that crash it, hang it or do nothing", _settings),
    "labels": Check("versions and labels of the running server, and whether they can converge", _labels),
    "log": Check("known lines of the server's log, with their causes", _log),
}


def run(here: Surroundings, names: Collection[str]) -> list[Result]:
    """All at once, in the order of CHECKS."""
    chosen = [name for name in CHECKS if name in names]
    with ThreadPoolExecutor(len(chosen) or 1) as pool:
        return list(pool.map(lambda name: _run(name, here), chosen))


def _run(name: str, here: Surroundings) -> Result:
    check, begun = CHECKS[name], time.monotonic()
    try:
        found = check.examine(here)
    except (OSError, ServekitError) as problem:
        found = examined([error(f"{name}.impossible", name, f"could not be checked: {problem}")])
    return Result(name, check.about, round(time.monotonic() - begun, 3), found.looked_at, found.findings)


def healthy(results: Collection[Result]) -> bool:
    return not any(finding.severity is Severity.ERROR for result in results for finding in result.findings)
