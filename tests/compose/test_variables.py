"""docker-compose.yaml, .env.example and serving.yaml name the same variables with the same defaults."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from servekit.config.load import load
from servekit.config.stack import VARIABLES, Stack, variables
from servekit.engine.stack import PUBLISHED, Options, environment, own_variables
from servekit.paths import Bundle

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILES = (ROOT / "docker-compose.yaml", ROOT / "docker" / "tfserving.yaml")
_USE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")


def without_comments(path: Path) -> str:
    return "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in path.read_text().splitlines())


def compose_variables() -> dict[str, set[str | None]]:
    """Defaults by variable; None for a use without one."""
    found: dict[str, set[str | None]] = {}
    for path in COMPOSE_FILES:
        for name, default in _USE.findall(without_comments(path)):
            found.setdefault(name, set()).add(default)
    return found


def example_variables() -> dict[str, str]:
    text = (ROOT / ".env.example").read_text()
    return dict(re.findall(r"^# ([A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_every_variable_has_one_default_and_its_line_in_the_example() -> None:
    used = compose_variables()
    assert {name: defaults for name, defaults in used.items() if len(defaults) != 1} == {}
    assert example_variables() == {name: default for name, [default] in used.items()}


def test_no_variable_is_used_without_a_default() -> None:
    for path in COMPOSE_FILES:
        assert re.findall(r"\$\{[A-Z_]+\}|\$[A-Z_]+", without_comments(path)) == []


def test_defaults_of_serving_yaml_are_those_of_compose() -> None:
    defaults = example_variables()
    assert variables(Stack()) == {name: defaults[name] for name in VARIABLES.values()}
    assert variables(load(ROOT / "config" / "serving.yaml").stack) == variables(Stack())


def test_nothing_in_the_example_is_set_until_a_line_is_taken_out_of_its_comment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert not set(example_variables()) & own_variables(Bundle(tmp_path))
    (tmp_path / ".env").write_text("export TFS_MEMORY=16G\n TFS_CPUS = 3\n# GRPC_PORT=1\n")
    assert {"TFS_MEMORY", "TFS_CPUS"} <= own_variables(Bundle(tmp_path))


def test_what_a_person_set_wins_over_serving_yaml_and_what_they_typed_over_both() -> None:
    serving = load(ROOT / "config" / "serving.yaml")
    assert environment(serving, Options(), ())["TFS_MEMORY"] == "8G"
    assert environment(serving, Options(), ())["GRPC_PORT"] == "8500"
    chosen = environment(serving, Options(port=9000, bind="0.0.0.0"), ("TFS_MEMORY", "GRPC_PORT"))
    assert "TFS_MEMORY" not in chosen
    assert (chosen["GRPC_PORT"], chosen["BIND_ADDR"]) == ("9000", "0.0.0.0")


def resolved(**environment: str) -> dict[str, Any]:
    program = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no docker-compose (its package needs Python 3.11)")
    command = [program, "--project-directory", str(ROOT), "--env-file", "/dev/null", "config"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/bin", **environment})
    assert answer.returncode == 0, answer.stderr
    document: dict[str, Any] = yaml.safe_load(answer.stdout)
    return document["services"]  # type: ignore[no-any-return]


def test_gpu_is_one_line_that_takes_the_place_of_the_cpu_image() -> None:
    cpu, gpu = resolved(), resolved(COMPOSE_PROFILES="gpu")
    assert cpu["tfserving"]["image"] == "tensorflow/serving:2.21.0"
    assert "reservations" not in cpu["tfserving"]["deploy"]["resources"]
    assert gpu["tfserving"]["image"] == "tensorflow/serving:2.21.0-gpu"
    [device] = gpu["tfserving"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert set(gpu) == set(cpu)
    for key in ("entrypoint", "healthcheck", "volumes", "read_only", "cap_drop", "user"):
        assert gpu["tfserving"][key] == cpu["tfserving"][key]


def test_another_version_a_digest_and_a_mirror_are_one_variable_each() -> None:
    services = resolved(TFS_VERSION="2.19.1", TFS_DIGEST="@sha256:" + "0" * 64, REGISTRY="registry.example/")
    assert services["tfserving"]["image"] == f"registry.example/tensorflow/serving:2.19.1@sha256:{'0' * 64}"
    assert services["grafana"]["image"].startswith("registry.example/grafana/grafana:")


def test_opening_rest_opens_neither_grpc_nor_prometheus() -> None:
    """gRPC has HandleReloadConfigRequest, which replaces the model configuration; Prometheus has no login."""
    services = resolved(BIND_ADDR="0.0.0.0")
    addresses = {
        variable: port["host_ip"]
        for variable, (name, inside) in PUBLISHED.items()
        for port in services[name]["ports"]
        if port["target"] == inside
    }
    assert addresses == {
        "GRPC_PORT": "127.0.0.1",
        "REST_PORT": "0.0.0.0",
        "PROMETHEUS_PORT": "127.0.0.1",
        "GRAFANA_PORT": "0.0.0.0",
    }


def test_no_single_file_is_mounted() -> None:
    for service in resolved().values():
        for mount in service.get("volumes", []):
            assert mount["type"] == "volume" or Path(mount["source"]).is_dir(), mount
