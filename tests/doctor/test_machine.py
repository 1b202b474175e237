"""Ports, disks, memory, CPUs: real sockets and file systems, and facts that no machine of ours has."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from servekit.config.load import load
from servekit.doctor import disk, ports, resources
from servekit.doctor.disk import DiskFacts
from servekit.doctor.docker import DockerFacts
from servekit.doctor.finding import Severity
from servekit.doctor.ports import PortFacts
from servekit.doctor.resources import ResourceFacts
from servekit.doctor.stack import Container, Published, Service, StackFacts
from servekit.engine.state import EngineState
from tests.doctor.homes import Home

GIB = 2**30


def state(grpc: int, rest: int) -> EngineState:
    return EngineState("embedded", os.getpid(), "", "127.0.0.1", grpc, rest, "", "", "")


def test_free_ports_are_no_finding(home: Home) -> None:
    wanted = ports.wanted(load(home.bundle.serving_yaml), StackFacts(), in_containers=False)
    assert [port.port for port in wanted] == [home.grpc_port, home.rest_port]
    facts = ports.gather(wanted, None, StackFacts())
    assert list(ports.judge(facts, None)) == []
    assert ports.looked_at(facts) == f"{home.grpc_port} free, {home.rest_port} free"


def test_a_stranger_on_our_port_is_named(home: Home) -> None:
    with socket.create_server(("127.0.0.1", home.rest_port)):
        facts = ports.gather(
            ports.wanted(load(home.bundle.serving_yaml), StackFacts(), in_containers=False), None, StackFacts()
        )
        (found,) = ports.judge(facts, None)
    assert (found.code, found.severity, found.place) == ("ports.taken", Severity.ERROR, f"port {home.rest_port} (REST)")
    assert found.remedy is not None
    assert found.remedy.startswith("servekit up --rest-api-port ")
    if sys.platform.startswith("linux"):
        assert f"(pid {os.getpid()})" in found.message


def test_our_own_server_on_its_port_is_no_finding(home: Home) -> None:
    wanted = ports.wanted(load(home.bundle.serving_yaml), StackFacts(), in_containers=False)
    with socket.create_server(("127.0.0.1", home.rest_port)):
        running = state(home.grpc_port, home.rest_port)
        facts = ports.gather(wanted, running, StackFacts())
        assert list(ports.judge(facts, running)) == []


def test_our_own_container_on_its_port_is_no_finding(home: Home) -> None:
    service = Service("tfserving", "x", ports=(Published("127.0.0.1", home.rest_port, 8501),))
    ours = Container("1", "tfserving", "x-1", "running", "healthy", 0, "x", frozenset({home.rest_port}))
    stack = StackFacts(None, (service,), (ours,))
    with socket.create_server(("127.0.0.1", home.rest_port)):
        wanted = ports.wanted(None, stack, in_containers=True)
        assert list(ports.judge(ports.gather(wanted, None, stack), None)) == []
        alone = StackFacts(None, (service,))
        assert [one.code for one in ports.judge(ports.gather(wanted, None, alone), None)] == ["ports.taken"]


@pytest.mark.parametrize(
    ("problem", "code"),
    [(errno.EACCES, "ports.forbidden"), (errno.EADDRNOTAVAIL, "ports.no-such-address"), (None, None)],
)
def test_other_reasons_why_nobody_can_listen(problem: int | None, code: str | None) -> None:
    facts = [PortFacts(80, "192.0.2.1", "REST", "BIND_ADDR", problem)]
    assert [one.code for one in ports.judge(facts, None)] == ([code] if code else [])


def test_a_server_on_other_ports_than_configured_is_a_note() -> None:
    facts = [PortFacts(8500, "127.0.0.1", "gRPC", "", None), PortFacts(8501, "127.0.0.1", "REST", "", None)]
    assert [one.code for one in ports.judge(facts, state(9500, 9501))] == ["ports.elsewhere"]


def test_room_on_this_disk_is_no_finding_and_folders_that_do_not_exist_count(tmp_path: Path) -> None:
    facts = disk.gather({"models": tmp_path, "logs": tmp_path / "not" / "there" / "yet"})
    assert [fact.folder for fact in facts] == [str(tmp_path)] * 2
    assert {one.code for one in disk.judge(facts)} <= {"disk.tight"}


def disk_with(free: int, *, device: int = 1, inodes: int | None = 10**6, writable: bool = True) -> DiskFacts:
    return DiskFacts("models", "/srv", device, free, 100 * GIB, inodes, writable)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (disk_with(50 * GIB), None),
        (disk_with(GIB), "disk.tight"),
        (disk_with(2**20), "disk.full"),
        (dataclasses.replace(disk_with(2**25), total_bytes=2**26), None),
        (disk_with(50 * GIB, inodes=3), "disk.no-inodes"),
        (disk_with(50 * GIB, inodes=None), None),
        (disk_with(50 * GIB, writable=False), "disk.read-only"),
    ],
    ids=["roomy", "tight", "full", "small on purpose", "no inodes", "inodes not counted", "read-only"],
)
def test_disks(facts: DiskFacts, code: str | None) -> None:
    assert [one.code for one in disk.judge([facts])] == ([code] if code else [])


def test_one_disk_is_one_finding() -> None:
    assert len(list(disk.judge([disk_with(GIB), disk_with(GIB)]))) == 1
    assert len(list(disk.judge([disk_with(GIB), disk_with(GIB, device=2)]))) == 2


def resource_facts(
    models: int = GIB,
    memory: int = 16 * GIB,
    cpus: int = 8,
    limit: float = 0,
    threads: int | None = None,
    files: int = 65536,
) -> ResourceFacts:
    return ResourceFacts(models, models // 2, memory, "the limit", cpus, limit, "limit", threads, files)


@pytest.mark.parametrize(
    ("facts", "code", "severity"),
    [
        (resource_facts(), None, None),
        (resource_facts(models=20 * GIB), "resources.memory", Severity.ERROR),
        (resource_facts(models=9 * GIB), "resources.memory-tight", Severity.WARNING),
        (resource_facts(models=6 * GIB), "resources.memory-tight", Severity.WARNING),
        (resource_facts(limit=2), "resources.cpus", Severity.WARNING),
        (resource_facts(limit=2, threads=2), None, None),
        (resource_facts(limit=2, threads=4), "resources.cpus", Severity.WARNING),
        (resource_facts(threads=16), "resources.cpus", Severity.WARNING),
        (resource_facts(files=256), "resources.open-files", Severity.NOTE),
    ],
    ids=[
        "enough",
        "too little",
        "tight",
        "tight with one more",
        "limited",
        "limited and told",
        "told wrongly",
        "more than there are",
        "few files",
    ],
)
def test_resources(facts: ResourceFacts, code: str | None, severity: Severity | None) -> None:
    assert [(one.code, one.severity) for one in resources.judge(facts)] == ([(code, severity)] if code else [])


def test_the_limit_of_a_container_counts_and_a_smaller_machine_more(home: Home) -> None:
    serving = load(home.bundle.serving_yaml)
    service = Service("tfserving", "x", cpus=2, memory_bytes=4 * GIB)
    engine = DockerFacts("docker", cpus=8, memory_bytes=32 * GIB)
    facts = resources.gather(serving, service, engine, 1, 1)
    assert (facts.memory_bytes, facts.memory_of, facts.cpu_limit) == (4 * GIB, "the memory limit of tfserving", 2)
    small = resources.gather(serving, service, DockerFacts("docker", cpus=8, memory_bytes=2 * GIB), 1, 1)
    assert (small.memory_bytes, small.memory_of) == (2 * GIB, "the engine's machine")
    here = resources.gather(serving, None, engine, 1, 1)
    assert 0 < here.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
