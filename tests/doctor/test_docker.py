"""Docker and Compose: what their commands print, read and judged; the real ones are looked at in tests/compose."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from servekit.doctor import compose, docker, stack
from servekit.doctor.compose import HostFacts
from servekit.doctor.docker import DockerFacts
from servekit.doctor.finding import Finding, Severity
from servekit.doctor.programs import Answer, ask
from servekit.doctor.stack import Container, Mount, Published, Service, StackFacts

SERVER = {"Version": "28.5.2", "ApiVersion": "1.51", "Os": "linux", "Arch": "amd64"}
INFO = {
    "DockerRootDir": "/var/lib/docker",
    "NCPU": 2,
    "MemTotal": 25276649472,
    "Architecture": "x86_64",
    "CgroupVersion": "2",
    "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
    "Warnings": None,
}
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "
    '"http://%2Fvar%2Frun%2Fdocker.sock/v1.51/version": dial unix /var/run/docker.sock: connect: permission denied'
)


def OK(text: str) -> Answer:  # noqa: N802 - what a program answered
    return Answer(0, text, "")


def ERROR(text: str) -> Answer:  # noqa: N802
    return Answer(1, "", text)


def facts(
    server: Answer | None = None, compose: Answer | None = None, buildx: Answer | None = None, **info: object
) -> DockerFacts:
    return docker.read(
        "/usr/bin/docker",
        server or OK(json.dumps(SERVER)),
        OK(json.dumps({**INFO, **info})),
        ("docker", "compose"),
        compose or OK("2.40.3\n"),
        buildx or OK("github.com/docker/buildx 0.29.1\n"),
    )


def codes(found: DockerFacts, *, needed: bool = True) -> list[str]:
    return [one.code.removeprefix("docker.") for one in docker.judge(found, needed=needed, is_mac=False)]


def test_a_current_engine_is_no_finding() -> None:
    found = facts()
    assert codes(found) == []
    assert docker.looked_at(found) == "engine 28.5.2, API 1.51, Compose 2.40.3"


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (DockerFacts(None), "missing"),
        (facts(ERROR(DOWN)), "engine-down"),
        (facts(ERROR(DENIED)), "permission"),
        (facts(Answer(None, "", "")), "engine-down"),
        (facts(OK(json.dumps({**SERVER, "Version": "19.03.15"}))), "engine-old"),
        (facts(compose=ERROR("docker: 'compose' is not a docker command.")), "compose-missing"),
        (facts(compose=OK("1.29.2\n")), "compose-old"),
        (facts(compose=OK("v2.40.3-desktop.1\n")), None),
        (facts(compose=OK("5.6.1\n"), buildx=ERROR("docker: 'buildx' is not a docker command.")), "no-buildx"),
        (facts(Architecture="aarch64"), "architecture"),
        (facts(SecurityOptions=["name=rootless", "name=cgroupns"]), "rootless"),
        (facts(Warnings=["WARNING: No memory limit support", "WARNING: No swap limit support"]), "no-limits"),
        (facts(Warnings=["WARNING: No swap limit support"]), None),
    ],
    ids=[
        "no command",
        "not running",
        "permission denied",
        "hangs",
        "old engine",
        "no Compose",
        "Compose 1",
        "Docker Desktop",
        "no buildx",
        "ARM",
        "rootless",
        "no memory limits",
        "no swap limits",
    ],
)
def test_engines_with_a_trap(found: DockerFacts, code: str | None) -> None:
    assert codes(found) == ([code] if code else [])


@pytest.mark.parametrize("found", [DockerFacts(None), facts(ERROR(DOWN)), facts(ERROR(DENIED))])
def test_what_is_missing_is_an_error_only_where_it_is_needed(found: DockerFacts) -> None:
    assert [one.severity for one in docker.judge(found, needed=True)] == [Severity.ERROR]
    assert [one.severity for one in docker.judge(found, needed=False)] == [Severity.NOTE]


def test_a_program_that_is_not_there_or_does_not_answer(tmp_path: Path) -> None:
    assert ask(["no-such-program"]).status == 127
    assert ask(["sleep", "60"], timeout_s=0.1).complaint() == "no answer within 5 s"
    assert ask(["sh", "-c", "echo '{\"a\": 1}'; echo '{\"a\": 2}'"]).documents() == [{"a": 1}, {"a": 2}]
    assert ask(["sh", "-c", "echo why >&2; exit 3"]).complaint() == "why"
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    assert ask([os.fspath(broken)]).status == 126


# What `docker compose config --format json` prints, in the parts that count.
RESOLVED = {
    "name": "servekit",
    "services": {
        "tfserving": {
            "image": "tensorflow/serving:2.21.0",
            "user": "10001:10001",
            "deploy": {
                "resources": {
                    "limits": {"cpus": 4.0, "memory": "8589934592"},
                    "reservations": {"devices": [{"capabilities": ["gpu"], "driver": "nvidia", "count": -1}]},
                }
            },
            "ports": [
                {"mode": "ingress", "host_ip": "127.0.0.1", "target": 8500, "published": "8500", "protocol": "tcp"},
                {"mode": "ingress", "target": 8501, "published": "8501", "protocol": "tcp"},
            ],
            "volumes": [
                {
                    "type": "bind",
                    "source": "/b/models",
                    "target": "/models",
                    "read_only": True,
                    "bind": {"create_host_path": True},
                },
                {"type": "bind", "source": "/b/models.config", "target": "/etc/tfs/models.config", "bind": {}},
                {"type": "volume", "source": "data", "target": "/data", "volume": {}},
            ],
            "secrets": [{"source": "key", "target": "/run/secrets/key"}],
            "ulimits": {"nofile": {"soft": 1024, "hard": 2000000}},
            "environment": {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "EMPTY": None},
        },
        "setup": {"image": "servekit:0.1.0", "build": {"context": "/b"}},
    },
    "secrets": {"key": {"name": "servekit_key", "file": "/b/key"}},
}


def test_the_resolved_configuration_is_read() -> None:
    server, setup = stack.read_services(RESOLVED)
    assert (server.image, server.user, server.cpus, server.memory_bytes) == (
        "tensorflow/serving:2.21.0",
        "10001:10001",
        4.0,
        8 * 2**30,
    )
    assert server.ports == (Published("127.0.0.1", 8500, 8500), Published("0.0.0.0", 8501, 8501))
    assert server.mounts == (
        Mount("/b/models", "/models", True),
        Mount("/b/models.config", "/etc/tfs/models.config", False),
    )
    assert (server.secrets, server.nofile, server.wants_gpu) == (("/b/key",), 2000000, True)
    assert (setup.builds, setup.wants_gpu, setup.memory_bytes) == (True, False, 0)


@pytest.mark.parametrize(
    ("text", "size"), [("8G", 8 * 2**30), ("512m", 2**29), ("1.5gb", 3 * 2**29), (1024, 1024), ("", 0)]
)
def test_sizes_as_people_and_compose_write_them(text: str | int, size: int) -> None:
    service = stack.read_services({"services": {"a": {"mem_limit": text}}})[0]
    assert service.memory_bytes == size


PS = """{"ID":"6b1f2c","Name":"servekit-tfserving-1","Service":"tfserving","State":"running","Health":"healthy",
"ExitCode":0,"Image":"tensorflow/serving:2.21.0","Publishers":[{"URL":"127.0.0.1","TargetPort":8501,"PublishedPort":8501,
"Protocol":"tcp"},{"URL":"","TargetPort":9999,"PublishedPort":0,"Protocol":"tcp"}]}""".replace("\n", "")
INSPECTED = [
    {
        "Id": "6b1f2c0123456789",
        "State": {"OOMKilled": True, "StartedAt": "2026-11-22T06:41:07.123456789Z"},
        "RestartCount": 4,
        "Mounts": [{"Type": "bind", "Source": "/b/config/rendered/container", "Destination": "/etc/servekit"}],
    }
]


@pytest.mark.parametrize("text", [PS, f"[{PS}]", f"{PS}\n{PS}"], ids=["one a line", "a list", "two lines"])
def test_containers_are_read_in_every_form_that_compose_prints(text: str) -> None:
    first, *_ = stack.read_containers(OK(text).documents())
    assert (first.service, first.state, first.health, first.ports) == (
        "tfserving",
        "running",
        "healthy",
        frozenset({8501}),
    )
    (detailed,) = stack.with_details([first], INSPECTED)
    assert (detailed.out_of_memory, detailed.restarts) == (True, 4)
    assert detailed.mounts == {"/b/config/rendered/container": "/etc/servekit"}
    assert detailed.started is not None
    assert detailed.started.isoformat() == "2026-11-22T06:41:07+00:00"


HOST = HostFacts({}, {}, None, cpus=2, nofile=1048576)
PLAIN = Service("tfserving", "tensorflow/serving:2.21.0", user="10001:10001")


def judged(service: Service = PLAIN, host: HostFacts = HOST, *containers: Container) -> list[Finding]:
    return list(compose.judge(StackFacts(None, (service,), containers), host))


def with_(service: Service = PLAIN, **changes: object) -> Service:
    return dataclasses.replace(service, **changes)  # type: ignore[arg-type]


def test_a_plain_service_is_no_finding() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("service", "host", "code", "severity"),
    [
        (
            with_(mounts=(Mount("/a/f", "/f", True),)),
            {"folders": {"/a/f": False}},
            "single-file-mount",
            Severity.WARNING,
        ),
        (with_(mounts=(Mount("/a", "/f", True),)), {"folders": {"/a": None}}, "mount-missing", Severity.WARNING),
        (with_(mounts=(Mount("/a", "/f", False),)), {"folders": {"/a": None}}, "mount-missing", Severity.ERROR),
        (with_(mounts=(Mount("/a", "/f", False),)), {"folders": {"/a": True}}, None, None),
        (with_(cpus=4.0), {}, "too-many-cpus", Severity.ERROR),
        (with_(cpus=2.0), {}, None, None),
        (with_(nofile=2000000), {}, "too-many-files", Severity.ERROR),
        (with_(nofile=2000000), {"nofile": -1}, None, None),
        (with_(ports=(Published("0.0.0.0", 8501, 8501),)), {}, "open-port", Severity.WARNING),
        (with_(ports=(Published("127.0.0.1", 8501, 8501),)), {}, None, None),
        (with_(secrets=("/k",)), {"secret_modes": {"/k": None}}, "secret-missing", Severity.ERROR),
        (with_(secrets=("/k",)), {"secret_modes": {"/k": 0o600}}, "secret-mode", Severity.ERROR),
        (with_(secrets=("/k",)), {"secret_modes": {"/k": 0o444}}, None, None),
        (with_(secrets=("/k",), user=""), {"secret_modes": {"/k": 0o600}}, None, None),
        (PLAIN, {"images": frozenset()}, "image-absent", Severity.NOTE),
        (PLAIN, {"images": frozenset({PLAIN.image})}, None, None),
    ],
)
def test_what_keeps_a_service_from_starting(
    service: Service, host: dict[str, object], code: str | None, severity: Severity | None
) -> None:
    found = judged(service, dataclasses.replace(HOST, **host))  # type: ignore[arg-type]
    assert [(one.code, one.severity) for one in found] == ([(f"compose.{code}", severity)] if code else [])


def test_an_absent_image_is_pulled_or_built() -> None:
    assert judged(PLAIN, dataclasses.replace(HOST, images=frozenset()))[0].remedy == "docker compose pull tfserving"
    built = judged(with_(builds=True), dataclasses.replace(HOST, images=frozenset()))
    assert built[0].remedy == "docker compose build tfserving"


def container(state: str = "running", exit_code: int = 0, **more: object) -> Container:
    health = str(more.pop("health", "healthy"))
    return Container("1", "tfserving", "x-tfserving-1", state, health, exit_code, PLAIN.image, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "code", "says"),
    [
        (container(), None, ""),
        (container("exited", 0), None, ""),
        (container("exited", 143), None, ""),
        (container("exited", 255), "ended", "exit status 255"),
        (container("exited", 139), "ended", "segmentation fault"),
        (container("exited", 132), "ended", "Illegal instruction"),
        (container("exited", 137, out_of_memory=True), "out-of-memory", "memory limit"),
        (container("restarting", 255, restarts=7), "restarting", "7 restarts, last exit status 255"),
        (container("created"), "never-started", "has not started"),
        (container(health="unhealthy"), "unhealthy", "health check fails"),
    ],
)
def test_what_containers_died_of(one: Container, code: str | None, says: str) -> None:
    found = judged(PLAIN, HOST, one)
    assert [each.code for each in found] == ([f"compose.{code}"] if code else [])
    assert all(says in each.message for each in found)


def test_a_container_of_another_image_than_configured() -> None:
    other = dataclasses.replace(container(), image="tensorflow/serving:2.19.1")
    (found,) = judged(PLAIN, HOST, other)
    assert (found.code, found.remedy) == ("compose.other-image", "docker compose up -d")


def test_a_compose_file_that_does_not_resolve_is_one_error() -> None:
    (found,) = compose.judge(StackFacts(problem='service "x" refers to undefined volume y'), HOST)
    assert (found.code, found.severity) == ("compose.invalid", Severity.ERROR)
