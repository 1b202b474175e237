"""`docker compose up` in a fresh clone, on a real engine, and what a person does next. One stack for all, in order.

Prometheus is a real one; behind tensorflow/serving's name is the embedded server, with the same program name and flags.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from servekit.client import Client, ModelSpec
from servekit.config.load import load
from servekit.engine import images, stack
from servekit.engine.choose import Unusable
from servekit.engine.docker import timestamp
from servekit.paths import Bundle
from tests import plain_http
from tests.compose.conftest import PERSON, ROOT, Clone
from tests.standing_still import StandingStill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RUNNING = ("tfserving", "gateway", "controller", "exporter", "prometheus", "grafana")
USERS = {
    "tfserving": 10001,
    "gateway": 10001,
    "exporter": 10001,
    "prometheus": 65534,
    "grafana": 472,
}


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Counts looks instead of the clock: a machine that stands still for a second uses up one of them."""
    for _ in range(round(seconds / 0.5)):
        if result := condition():
            return result
        time.sleep(0.5)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


def prometheus(clone: Clone, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{clone.ports['PROMETHEUS_PORT']}/api/v1/{path}"
    return plain_http.get(url, params=parameters, timeout=10).json()["data"]


def rest(clone: Clone, path: str) -> Any:
    url = f"http://127.0.0.1:{clone.ports['REST_PORT']}/v1/models/{path}"
    return plain_http.get(url, timeout=10).json()


@pytest.fixture(scope="module")
def up(clone: Clone) -> Clone:
    """The first `docker compose up` of a fresh clone."""
    answer = clone.run("docker-compose", "up", "--detach", "--wait", check=False, timeout_s=400)
    if answer.returncode != 0:
        pytest.fail(f"{answer.stderr[-500:]}\n{clone.compose('logs', '--tail', '30')}", pytrace=False)
    return clone


def test_a_fresh_clone_exports_the_demo_model_and_comes_up_healthy(up: Clone) -> None:
    health = {name: up.inspect(name)["State"].get("Health", {}).get("Status", "none") for name in RUNNING}
    assert health == dict.fromkeys(RUNNING, "healthy") | {"exporter": "none", "controller": "none"}
    assert up.inspect("setup")["State"]["ExitCode"] == 0
    states = {one["version"]: one["state"] for one in rest(up, "imagenet")["model_version_status"]}
    assert states == {"1": "AVAILABLE", "2": "AVAILABLE"}
    assert (up.root / "config" / "rendered" / "container" / "start.sh").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="a clone of another user takes root to make")
def test_what_setup_writes_belongs_to_whoever_made_the_clone(up: Clone) -> None:
    owners = {path.stat().st_uid for folder in ("models", "config") for path in (up.root / folder).rglob("*")}
    assert owners == {PERSON}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_predictions_by_label_through_the_published_ports(up: Clone, protocol: str) -> None:
    port = up.ports["GRPC_PORT" if protocol == "grpc" else "REST_PORT"]
    photograph = (up.root / "export" / "samples" / "chelsea.png").read_bytes()
    with Client(f"{protocol}://127.0.0.1:{port}") as client:
        best = {
            label: client.predict(ModelSpec("imagenet", version_label=label), [photograph]).outputs["labels"][0][0]
            for label in ("stable", "canary")
        }
    assert best == {"stable": b"tiger cat", "canary": b"Egyptian cat"}


def test_the_gateway_labels_by_weight_and_the_controller_changes_it(up: Clone) -> None:
    """Edited in serving.yaml: nobody runs anything."""
    url = f"http://127.0.0.1:{up.ports['REST_PORT']}/v1/models/imagenet:predict"
    image = base64.b64encode((up.root / "export" / "samples" / "chelsea.png").read_bytes()).decode()

    def label() -> str:
        answer = plain_http.post(url, json={"instances": [{"b64": image}]}, timeout=20)
        return str(answer.raise_for_status().headers["x-servekit-label"])

    assert {label() for _ in range(3)} == {"stable"}
    settings = up.root / "config" / "serving.yaml"
    before = settings.read_text()
    settings.write_text(before.replace("    labels: ", "    canary: {weight: 100}\n    labels: ", 1))
    try:
        until(lambda: label() == "canary", 40, "all goes to the canary")
    finally:
        settings.write_text(before)
    until(lambda: label() == "stable", 40, "all goes to stable")
    if os.geteuid() == 0:
        assert (up.root / ".servekit" / "rollout.json").stat().st_uid == PERSON


def test_the_model_server_is_reached_through_the_gateway_alone(up: Clone) -> None:
    assert not any(up.inspect("tfserving")["NetworkSettings"]["Ports"].values())
    with grpc.insecure_channel(f"127.0.0.1:{up.ports['GRPC_PORT']}") as channel:
        reload_config = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            reload_config(b"", timeout=10)


def test_a_label_edit_is_taken_up_by_the_running_server(up: Clone) -> None:
    started = up.inspect("tfserving")["State"]["StartedAt"]
    settings = up.root / "config" / "serving.yaml"
    settings.write_text(settings.read_text().replace("stable: 1", "stable: 2"))
    up.compose("run", "--rm", "setup")
    until(lambda: rest(up, "imagenet/labels/stable/metadata")["model_spec"]["version"] == "2", 10, "stable is 2")
    assert up.inspect("tfserving")["State"]["StartedAt"] == started


def test_health_means_that_every_model_has_an_available_version(up: Clone) -> None:
    assert "every model has an AVAILABLE version" in up.inside("tfserving", "bash", "/etc/servekit/healthcheck.sh")
    other = up.root / "config" / "rendered" / "container" / "other.sh"
    text = (other.with_name("healthcheck.sh")).read_text()
    other.write_text(text.replace("  imagenet\n", "  imagenet\n  not%20there\n"))
    try:
        answer = up.run("docker-compose", "exec", "-T", "tfserving", "bash", "/etc/servekit/other.sh", check=False)
    finally:
        other.unlink()
    assert answer.returncode == 1
    assert "not%20there: no version is AVAILABLE" in answer.stdout


def test_the_controller_goes_on_as_the_owner_of_the_clone_without_capabilities(up: Clone) -> None:
    """A command that is run beside it is root, as its container begins."""
    processes = up.inside("controller", "sh", "-c", "cat /proc/[0-9]*/status").split("Name:\t")
    [python] = [text for text in processes if text.startswith("python")]
    fields = dict(line.split(":\t", 1) for line in python.splitlines() if ":\t" in line)
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    if os.geteuid() == 0:
        assert set(fields["Uid"].split()) == {str(PERSON)}
    assert "Read-only file system" in up.inside("controller", "touch", "/here", check=False)


@pytest.mark.parametrize("service", [name for name in RUNNING if name != "controller"])
def test_hardening_as_seen_from_inside(up: Clone, service: str) -> None:
    status = up.inside(service, "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {str(USERS[service])}
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert fields["NoNewPrivs"] == "1"
    refused = up.inside(service, "touch", "/here", check=False)
    assert "Read-only file system" in refused
    for folder in ("/etc/servekit", "/models", "/etc/prometheus", "/etc/grafana/provisioning"):
        if folder in {mount["Destination"] for mount in up.inspect(service)["Mounts"]}:
            assert "Read-only file system" in up.inside(service, "touch", f"{folder}/here", check=False)


def test_setup_begins_with_two_capabilities_and_goes_on_without_any(up: Clone) -> None:
    host = up.inspect("setup")["HostConfig"]
    assert {name.removeprefix("CAP_") for name in host["CapAdd"]} == {"SETUID", "SETGID"}
    assert host["NetworkMode"] == "none"
    code = (
        "import sys; from servekit import container; from servekit.paths import bundle\n"
        "container.become_owner(bundle().models)\n"
        "print([line for line in open('/proc/self/status') if line.startswith(('Uid', 'CapEff', 'CapPrm'))])"
    )
    said = up.compose("run", "--rm", "-T", "--entrypoint", "python", "setup", "-c", code)
    assert re.findall(r"Cap\w+:\\t(\w+)", said) == ["0" * 16] * 2
    if os.geteuid() == 0:
        assert f"Uid:\\t{PERSON}" in said


@pytest.mark.parametrize(
    ("service", "memory", "cpus"),
    [
        ("tfserving", 8 << 30, 0),
        ("gateway", 2 << 30, 0),
        ("controller", 512 << 20, 1),
        ("exporter", 512 << 20, 1),
        ("prometheus", 2 << 30, 1),
        ("grafana", 512 << 20, 1),
    ],
)
def test_limits_and_log_rotation(up: Clone, service: str, memory: int, cpus: int) -> None:
    host = up.inspect(service)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (memory, cpus * 10**9)
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}


def test_nothing_listens_beyond_this_machine(up: Clone) -> None:
    for service in RUNNING:
        published = [one for ports in up.inspect(service)["NetworkSettings"]["Ports"].values() for one in ports or ()]
        assert {one["HostIp"] for one in published} <= {"127.0.0.1"}


def test_the_password_is_random_and_for_grafana_alone(up: Clone) -> None:
    password = up.inside("grafana", "cat", "/run/grafana-password/password").strip()
    assert len(password) >= 30
    assert up.inside("grafana", "stat", "-c", "%a %u %g", "/run/grafana-password/password").strip() == "440 0 0"
    before = password
    up.compose("run", "--rm", "setup")
    assert up.inside("grafana", "cat", "/run/grafana-password/password").strip() == before
    assert password not in up.compose("config")


def test_prometheus_scrapes_everything_and_has_the_rules(up: Clone) -> None:
    def all_up() -> bool:
        targets = prometheus(up, "targets")["activeTargets"]
        return {one["labels"]["job"] for one in targets if one["health"] == "up"} >= {
            "tensorflow-serving", "servekit-exporter", "prometheus", "gateway", "servekit-controller",
        }  # fmt: skip

    until(all_up, 60, "all targets are up")
    counted = 'sum({__name__=":tensorflow:serving:request_count", status="OK", model_name="imagenet"}) >= 4'
    until(lambda: prometheus(up, "query", query=counted)["result"], 60, "the four predictions are counted")
    assert prometheus(up, "rules")["groups"]
    assert [one for one in prometheus(up, "alerts")["alerts"] if one["state"] == "firing"] == []


def test_the_exporter_tells_memory_and_age_of_a_server_in_another_container(up: Clone) -> None:
    """Of tensorflow/serving, which does not tell them itself."""
    query = 'servekit_server_resident_memory_bytes{job="servekit-exporter"}'
    [found] = until(lambda: prometheus(up, "query", query=query)["result"], 60, "memory")
    assert 100 << 20 < float(found["value"][1]) < 8 << 30
    [started] = prometheus(up, "query", query='servekit_server_start_time_seconds{job="servekit-exporter"}')["result"]
    assert abs(float(started["value"][1]) - timestamp(up.inspect("tfserving")["State"]["StartedAt"])) < 30


def test_a_second_up_changes_nothing(up: Clone) -> None:
    before = {service: (up.inspect(service)["Id"], up.inspect(service)["State"]["StartedAt"]) for service in RUNNING}
    up.compose("up", "--detach", "--wait")
    after = {service: (up.inspect(service)["Id"], up.inspect(service)["State"]["StartedAt"]) for service in RUNNING}
    assert after == before


def test_the_server_stops_within_two_seconds_and_prometheus_sees_it(up: Clone) -> None:
    identifier = up.compose("ps", "--quiet", "tfserving").strip()
    begin = time.time()
    with StandingStill() as still:
        up.compose("stop", "tfserving")
    assert stopping_seconds(up, identifier, begin) < 2 + still.seconds
    assert up.inspect("tfserving")["State"]["ExitCode"] in (0, 143)

    def noticed() -> bool:
        return any(one["state"] in ("pending", "firing") for one in prometheus(up, "alerts")["alerts"])

    until(noticed, 60, "an alert about the server that is down")


def stopping_seconds(clone: Clone, identifier: str, since: float) -> float:
    """From the engine's signal to the container's end, without the time of the commands."""
    window = (f"--since={since:.3f}", f"--until={time.time():.3f}", f"--filter=container={identifier}")
    told = clone.run("docker", "events", *window, "--format", "{{json .}}").stdout.splitlines()
    moments = {event["Action"]: event["timeNano"] for event in map(json.loads, told)}
    return float(moments["die"] - moments["kill"]) / 1e9


def test_servekit_up_brings_the_stack_to_what_the_files_say(up: Clone) -> None:
    settings = up.root / "config" / "serving.yaml"
    text = settings.read_text().replace("stable: 2", "stable: 1").replace("path: /monitoring/", "path: /other/")
    settings.write_text(text.replace("memory: 8G", "memory: 6G"))
    answer = up.servekit("up", "--engine", "docker", "--detach")
    assert answer.returncode == 0, answer.stderr
    assert "engine docker: Docker Engine" in answer.stderr
    for shown in ("tiger cat", "Egyptian cat", "stable", "canary", "Prometheus  http://127.0.0.1:", "Grafana"):
        assert shown in answer.stdout
    assert up.inspect("tfserving")["HostConfig"]["Memory"] == 6 << 30
    status = json.loads(up.servekit("status", "--json").stdout)
    assert status["healthy"]
    assert status["engine"]["name"] == "docker"

    def followed() -> bool:
        targets = prometheus(up, "targets")["activeTargets"]
        return any("/other/prometheus/metrics" in one["scrapeUrl"] and one["health"] == "up" for one in targets)

    until(followed, 60, "Prometheus scrapes the other path")


def test_servekit_down_leaves_models_and_metrics_and_down_volumes_nothing(up: Clone) -> None:
    assert "stack stopped" in up.servekit("down").stderr
    project = up.env["COMPOSE_PROJECT_NAME"]
    label = f"label=com.docker.compose.project={project}"
    assert up.run("docker", "ps", "-aq", "--filter", label).stdout == ""
    volumes = up.run("docker", "volume", "ls", "-q", "--filter", label).stdout.split()
    assert volumes == [
        f"{project}_{name}" for name in ("grafana-data", "grafana-password", "prometheus-data", "server-process")
    ]
    assert (up.root / "models" / "imagenet" / "1" / "saved_model.pb").is_file()
    assert "nothing is running" in up.servekit("down").stderr
    assert "volumes removed" in up.servekit("down", "--volumes").stderr
    for kind in ("volume", "network"):
        assert up.run("docker", kind, "ls", "-q", "--filter", label).stdout == ""


def test_ctrl_c_ends_what_up_started(up: Clone) -> None:
    shutil.copytree(ROOT / "tests" / "models" / "half_plus_two", up.root / "models" / "half_plus_two")
    (up.root / "config" / "serving.yaml").write_text("models: {half_plus_two: {}}\n")
    command = [sys.executable, "-m", "servekit", "up", "--engine", "docker", "--no-demo"]
    with subprocess.Popen(command, cwd=up.root, env=up.env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "Ctrl-C ends the stack" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert "ending the stack" in process.stderr.read()
    assert process.returncode == 130
    assert up.compose("ps", "--all", "--quiet") == ""


def test_images_that_cannot_be_had_are_a_reason_within_seconds(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (clone.env | {"TFS_VERSION": "no-such-version"}).items():
        monkeypatch.setenv(name, value)
    here = Bundle(clone.root)
    begin = time.monotonic()
    found = images.probe(stack.compose(here, load(here.serving_yaml), stack.Options()), lambda _line: None)
    assert time.monotonic() - begin < 30
    assert isinstance(found, Unusable)
    assert found.why.startswith("image tensorflow/serving:no-such-version is not here and cannot be pulled: ")
