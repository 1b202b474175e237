"""`servekit exporter` beside a real server: what Prometheus is told of versions, labels and memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from servekit.errors import EngineError
from servekit.monitoring.process import find_process, memory_limit_bytes, process_usage
from tests import plain_http
from tests.conftest import RunningServer, Serve, free_port
from tests.monitoring.running import ROOT, Exporter
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow

MODELS_CONFIG = """
model_config_list {
  config {
    name: "half" base_path: "{models}/half_plus_two" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }
  }
}
"""
Series = dict[tuple[str, ...], float]


def series(text: str, family: str) -> Series:
    """Label values, in the order of the labels' names, to value."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
        if sample.name == family
    }


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file={work}/monitoring.config",
        files={
            "models.config": MODELS_CONFIG.replace("{models}", str(models)),
            "monitoring.config": "prometheus_config { enable: true }",
        },
    )


@pytest.fixture
def exporter(server: RunningServer, tmp_path: Path) -> Iterator[Exporter]:
    config = tmp_path / "models.config"
    config.write_text((server.work / "models.config").read_text())
    running = Exporter(
        tmp_path, free_port(), f"--models-config={config}", f"--url=grpc://{server.grpc}", "--memory-limit=1.5G"
    )
    yield running
    running.stop()


def test_states_and_labels_are_as_the_server_says_and_its_own_counts_do_not_grow(
    server: RunningServer, exporter: Exporter, tmp_path: Path
) -> None:
    page = exporter.page()
    assert series(page, "servekit_server_reachable") == {(): 1}
    assert series(page, "servekit_model_configured") == {("half",): 1}
    assert series(page, "servekit_version_available") == {("half", "1"): 1, ("half", "2"): 1}
    assert series(page, "servekit_version_state") == {
        ("OK", "half", "AVAILABLE", "1"): 1,
        ("OK", "half", "AVAILABLE", "2"): 1,
    }
    assert series(page, "servekit_version_label") == {("stable", "half", "1"): 1, ("canary", "half", "2"): 1}
    assert series(page, "servekit_label_configured") == series(page, "servekit_version_label")
    counted = plain_http.get(f"{server.rest}/monitoring/prometheus/metrics").text
    assert series(counted, ":tensorflow:serving:request_count") == {}

    config = tmp_path / "models.config"  # wanted differently, as after an edit that the server does not take
    config.write_text(config.read_text().replace('"canary" value: 2', '"canary" value: 3'))
    page = exporter.page()
    assert series(page, "servekit_label_configured") == {("stable", "half", "1"): 1, ("canary", "half", "3"): 1}
    assert series(page, "servekit_version_label") == {("stable", "half", "1"): 1, ("canary", "half", "2"): 1}

    config.write_text("model_config_list {")
    assert series(exporter.page(), "servekit_label_configured")[("canary", "half", "3")] == 1
    assert "models.config: " in exporter.log.read_text()


def test_a_server_that_is_not_there_has_models_and_no_versions(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(MODELS_CONFIG)
    running = Exporter(tmp_path, free_port(), f"--models-config={config}", "--url=grpc://127.0.0.1:1", "--timeout=1")
    try:
        page = running.page()
        assert series(page, "servekit_server_reachable") == {(): 0}
        assert series(page, "servekit_model_configured") == {("half",): 1}
        assert series(page, "servekit_version_available") == {}
        running.page()
        assert running.log.read_text().count("WARNING") == 1, "the same trouble is told once"
    finally:
        assert running.stop() == 0


def test_a_server_that_takes_connections_and_says_nothing_is_not_reachable(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text('model_config_list { config { name: "a" base_path: "/a" } config { name: "b" base_path: "/b" } }')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        running = Exporter(tmp_path, free_port(), f"--models-config={config}", f"--url={address}", "--timeout=1")
        try:
            began = time.monotonic()
            with StandingStill() as still:
                page = running.page()
            assert time.monotonic() - began < 4 + still.seconds, "each model costs a timeout"
            assert series(page, "servekit_server_reachable") == {(): 0}
            assert series(page, "servekit_version_available") == {}
        finally:
            running.stop()


def test_ctrl_c_ends_it(exporter: Exporter) -> None:
    assert exporter.stop(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--models-config=nowhere/models.config"], "nowhere/models.config: No such file or directory", 1),
        (["--url=http://127.0.0.1:8501"], "should begin with grpc://", 2),
        (["--listen=9500"], "'9500' is no HOST:PORT such as 127.0.0.1:9500", 2),
        (["--memory-limit=lots"], "'lots' is no size such as 8G or 512M", 2),
        (["--memory-limit=0"], "'0' is no size such as 8G or 512M", 2),
    ],
    ids=["no file", "REST", "port alone", "no size", "no memory"],
)
def test_wrong_usage_is_one_clear_error(arguments: list[str], said: str, status: int) -> None:
    command = [sys.executable, "-m", "servekit", "exporter", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=90)
    assert ran.returncode == status
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_port_in_use_is_told_with_a_way_out(server: RunningServer) -> None:
    command = [sys.executable, "-m", "servekit", "exporter", f"--listen=127.0.0.1:{server.rest_port}"]
    command += [f"--models-config={server.work}/models.config"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=90)
    assert ran.returncode == 1
    assert f"error: 127.0.0.1:{server.rest_port}: Address already in use" in ran.stderr
    assert "hint: another address: --listen" in ran.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_process_has_memory_age_and_processor_time() -> None:
    usage = process_usage(os.getpid())
    assert usage is not None
    assert 10e6 < usage.resident_bytes < 100e9
    assert 0 <= time.time() - usage.started < 86_400
    assert usage.cpu_seconds > 0
    limit = memory_limit_bytes()
    assert limit is not None
    assert limit > usage.resident_bytes


def test_a_process_is_found_by_its_programs_name(tmp_path: Path) -> None:
    commands = {
        31: b"/usr/bin/tensorflow_model_server\0--port=8500\0",
        30: b"/usr/bin/python3\0/opt/serve\0--port=8500\0",
        7: b"/bin/bash\0-c\0tensorflow_model_server\0",
        5: b"",
    }
    for pid, command in commands.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(command)
    assert find_process("tensorflow_model_server", tmp_path) == 31
    assert find_process("serve", tmp_path) == 30
    assert find_process("another", tmp_path) is None
    assert process_usage(31, tmp_path) is None


def test_a_containers_limit_counts_and_no_limit_is_the_machines_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       1000 kB\nMemFree: 1 kB\n")
    assert memory_limit_bytes(tmp_path, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit_bytes(tmp_path, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("500000\n")
    assert memory_limit_bytes(tmp_path, tmp_path) == 500_000


def test_a_models_config_that_was_never_good_is_an_error(tmp_path: Path) -> None:
    from servekit.client import Client
    from servekit.monitoring.exporter import ServerCollector

    with Client("grpc://127.0.0.1:1") as client, pytest.raises(EngineError, match="No such file"):
        ServerCollector(client, tmp_path / "models.config", memory_limit_bytes=None)
