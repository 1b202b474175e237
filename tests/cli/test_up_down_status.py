"""`up`, `status` and `down` as a person types them: real processes, a bundle of its own, free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import free_port
from tests.up_home import SERVING, Home, assert_nothing_is_left, command_line

RECIPE = """
from servekit.export.recipe import Recipe
RECIPE = Recipe(title="A model", licence="CC0-1.0", url="")
def build(options):
    %s
"""


def ready_line(process: subprocess.Popen[str]) -> str:
    """Reads what `up` says until its server has answered."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Ctrl-C ends the server" in line:
            return "".join(lines)
    pytest.fail("up ended:\n" + "".join(lines))


@pytest.mark.slow
def test_detached_server_is_seen_by_status_reached_by_predict_and_ended_by_down(home: Home) -> None:
    up = home.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert "engine embedded" in up.stderr
    assert f"REST     http://127.0.0.1:{home.rest_port}/v1/models/half_plus_two:predict" in up.stdout
    assert "down ends it" in up.stdout

    # On the loopback interface alone.
    pid = home.state["pid"] if home.state else 0
    listening = [one.laddr.ip for one in psutil.Process(pid).net_connections("tcp") if one.status == "LISTEN"]
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}

    status = home.run("status", "--json")
    document = json.loads(status.stdout)
    assert status.returncode == 0
    assert document["healthy"]
    assert document["engine"]["pid"] == pid
    assert document["models"][0]["labels"]["canary"] == {"configured": 2, "served": 2}
    assert "AVAILABLE" in home.run("status").stdout

    for protocol in ("--rest", "--grpc"):
        answer = home.run("predict", "half_plus_two", "--label", "canary", "--instances", "[1.0]", protocol, "--json")
        assert json.loads(answer.stdout)["outputs"] == {"y": [3.5]}
        assert json.loads(answer.stdout)["version"] == 2

    again = home.run("up")
    assert again.returncode == 0
    assert f"a server is running already (embedded, pid {pid}" in again.stderr
    assert "AVAILABLE" in again.stdout
    other = home.run("up", "--bind", "0.0.0.0")
    assert other.returncode == 1
    assert "started with other options" in other.stderr
    assert "hint: servekit down" in other.stderr

    # A new version, its label, and the end of an old one in a single edit, which the server alone would refuse.
    versions = home.root / "models" / "half_plus_two"
    shutil.copytree(versions / "1", versions / "3")
    edited = (SERVING % (home.grpc_port, home.rest_port)).replace("[1, 2]", "[1, 3]").replace("canary: 2", "canary: 3")
    home.configure(edited)
    again = home.run("up")
    assert again.returncode == 0, again.stderr
    assert "half_plus_two: move label canary from 2 to 3" in again.stderr
    assert home.run("status").returncode == 0
    answer = home.run("predict", "half_plus_two", "--label", "canary", "--instances", "[1.0]", "--grpc", "--json")
    assert json.loads(answer.stdout)["version"] == 3

    down = home.run("down")
    assert down.returncode == 0
    assert f"server stopped (pid {pid})" in down.stderr
    assert_nothing_is_left(home)
    assert "nothing is running" in home.run("down").stderr


@pytest.mark.slow
def test_a_label_that_does_not_mean_its_version_makes_status_say_no(home: Home) -> None:
    serving = home.root / "config" / "serving.yaml"
    # With the gateway comes a controller, which mends what is done to models.config by hand.
    serving.write_text(serving.read_text() + "gateway: {enabled: false}\n")
    assert home.run("up", "--detach").returncode == 0
    rendered = home.root / "config" / "rendered" / "models.config"
    text = rendered.read_text()
    # The server refuses a label that moves to a version it does not have, and keeps the old one.
    rendered.write_text(text.replace('key: "canary" value: 2', 'key: "canary" value: 9'))
    assert rendered.read_text() != text
    status = home.run("status")
    assert status.returncode == 1
    assert "problem: half_plus_two: label canary means version 2, should be 9" in status.stdout
    document = json.loads(home.run("status", "--json").stdout)
    assert document["healthy"] is False
    assert document["models"][0]["labels"]["canary"] == {"configured": 9, "served": 2}
    assert home.run("down").returncode == 0


@pytest.mark.slow
def test_a_model_server_on_path_is_the_native_engine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary is the embedded server under TF Serving's name: same flags, same files."""
    binary = home.root / "bin" / "tensorflow_model_server"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m servekit serve "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    up = home.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert up.stderr.startswith("engine native: TensorFlow ModelServer: ")
    assert "warning: native listens on all interfaces" in up.stderr
    assert json.loads(home.run("status", "--json").stdout)["engine"]["name"] == "native"
    assert home.run("up", "--engine", "embedded").returncode == 1
    assert home.run("down").returncode == 0
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_a_killed_server_is_noticed_and_up_starts_another(home: Home) -> None:
    assert home.run("up", "--detach").returncode == 0
    assert home.state
    psutil.Process(home.state["pid"]).kill()
    status = home.run("status")
    assert status.returncode == 1
    assert "has ended" in status.stderr
    assert "servekit up" in status.stderr
    document = home.run("status", "--json")
    assert document.returncode == 1
    assert json.loads(document.stdout)["running"] is False
    assert home.run("up", "--detach").returncode == 0
    assert home.run("status").returncode == 0
    assert home.state
    psutil.Process(home.state["pid"]).kill()
    down = home.run("down")
    assert down.returncode == 0
    assert "had ended by itself" in down.stderr
    assert_nothing_is_left(home)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_leaves_no_process(home: Home, sign: signal.Signals) -> None:
    up = home.popen("up")
    ready_line(up)
    assert home.run("status").returncode == 0
    up.send_signal(sign)
    up.communicate(timeout=90)
    assert up.returncode == 130
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_a_killed_up_takes_its_server_along(home: Home) -> None:
    up = home.popen("up")
    ready_line(up)
    up.kill()
    up.communicate()
    deadline = time.monotonic() + 60
    while home.processes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "had ended by itself" in home.run("down").stderr


@pytest.mark.slow
def test_down_ends_a_server_that_another_terminal_watches(home: Home) -> None:
    up = home.popen("up")
    ready_line(up)
    assert home.run("down").returncode == 0
    _, err = up.communicate(timeout=90)
    assert up.returncode == 0
    assert "the server was asked to end, and did" in err
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_a_server_that_dies_ends_up_with_its_last_words(home: Home) -> None:
    up = home.popen("up")
    ready_line(up)
    assert home.state
    os.kill(home.state["pid"], signal.SIGKILL)
    _, err = up.communicate(timeout=90)
    assert up.returncode == 1
    assert "error: the server ended (SIGKILL)" in err
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_interrupting_while_models_load_leaves_no_process(home: Home) -> None:
    up = home.popen("up")
    home.wait_for("servekit serve")
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=90)
    assert up.returncode == 130
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_a_version_that_does_not_load_stops_up_with_the_reason(home: Home) -> None:
    (home.root / "models" / "half_plus_two" / "2" / "saved_model.pb").write_bytes(b"no graph")
    up = home.run("up", "--detach")
    assert up.returncode == 1
    assert "error: " in up.stderr
    assert "half_plus_two version: 2" in up.stderr
    assert "the whole log: " in up.stderr
    assert_nothing_is_left(home)


@pytest.mark.parametrize("option", ["port", "rest-api-port"])
def test_a_port_in_use_is_one_line_and_nothing_is_started(home: Home, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = home.run("up", f"--{option}", str(port))
    assert up.returncode == 1
    error, hint = up.stderr.splitlines()[-2:]
    assert error.startswith(f"error: port {port} is in use by ")
    assert hint.startswith(f"hint: take another one: servekit up --{option} ")
    assert_nothing_is_left(home)


def test_a_model_without_version_and_recipe_is_named(home: Home) -> None:
    shutil.rmtree(home.root / "models" / "half_plus_two" / "2")
    up = home.run("up")
    assert up.returncode == 1
    assert "models/half_plus_two/2 is missing and there is no recipe export/half_plus_two.py" in up.stderr
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_an_export_that_fails_stops_up_with_nothing_running(home: Home) -> None:
    shutil.rmtree(home.root / "models" / "half_plus_two")
    (home.root / "export" / "half_plus_two.py").write_text(RECIPE % "raise ValueError('no weights here')")
    up = home.run("up", "--detach")
    assert up.returncode == 1
    assert "could not be exported: " in up.stderr
    assert "no weights here" in up.stderr
    assert "hint: servekit export half_plus_two --version " in up.stderr
    assert not list((home.root / "models").glob("*/*"))
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_interrupting_an_export_leaves_no_process_and_no_version(home: Home) -> None:
    shutil.rmtree(home.root / "models" / "half_plus_two")
    (home.root / "export" / "half_plus_two.py").write_text(RECIPE % "import time; time.sleep(60)")
    up = home.popen("up")
    home.wait_for("export half_plus_two --version 2")
    time.sleep(1)
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=90)
    assert up.returncode == 130
    assert not list((home.root / "models").glob("*/*"))
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_a_second_up_at_the_same_time_is_refused(home: Home) -> None:
    first = home.popen("up", "--detach")
    home.wait_for("servekit serve")
    [server] = [process for process in home.processes() if "servekit serve" in command_line(process)]
    server.suspend()  # it does not become ready before the second one has looked
    second = home.run("up")
    server.resume()
    assert second.returncode == 1
    assert "another `servekit up` is starting here" in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=90)
    assert_nothing_is_left(home)


def test_a_wrong_serving_yaml_stops_up_with_its_line(home: Home) -> None:
    home.configure("models: {half_plus_two: {versoins: all}}\n")
    up = home.run("up")
    assert up.returncode == 2
    assert "serving.yaml:1: models.half_plus_two" in up.stderr


def test_status_without_a_server_says_what_to_do(home: Home) -> None:
    nothing = home.run("status")
    assert nothing.returncode == 1
    assert "servekit up" in nothing.stderr
    assert home.run("render").returncode == 0
    port = free_port()
    down = home.run("status", "--port", str(port))
    assert down.returncode == 1
    assert down.stderr.splitlines() == [
        f"error: no model server answers at grpc://127.0.0.1:{port}: connection refused",
        "hint: start one: servekit up",
    ]


def test_status_before_anything_was_rendered_is_one_document(home: Home) -> None:
    answer = home.run("status", "--json")
    assert answer.returncode == 1
    document = json.loads(answer.stdout)
    assert document["running"] is None
    assert "models.config" in document["error"]
