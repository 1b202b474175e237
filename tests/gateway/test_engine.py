"""`up`, `status` and `down` with the gateway in front: killed, restarted, drained."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from servekit.engine import controller, gateway, state
from servekit.errors import EngineError
from servekit.gateway import program
from servekit.gateway.answers import served_generation
from servekit.gateway.files import read_splits
from servekit.gateway.splits import Split
from servekit.paths import Bundle
from servekit.rollout.at_work import at_work, only_one
from tests import plain_http
from tests.up_home import SERVING, Home, assert_nothing_is_left


def known(home: Home) -> state.EngineState:
    found = state.read(Bundle(home.root))
    assert found is not None
    return found


def wait_for(what: object, seconds: float = 60) -> None:
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def predict(home: Home) -> httpx.Response:
    url = f"http://127.0.0.1:{home.rest_port}/v1/models/half_plus_two:predict"
    return plain_http.post(url, json={"instances": [1.0]}, timeout=20)


def is_answered(home: Home) -> bool:
    try:
        return predict(home).status_code == 200
    except httpx.HTTPError:
        return False


def controller_pid(home: Home) -> int | None:
    found = at_work(Bundle(home.root))
    return found.pid if found is not None and found.watches else None


@pytest.mark.slow
def test_in_the_background_a_gateway_that_is_gone_is_said_and_up_starts_it_again(home: Home) -> None:
    text = SERVING % (home.grpc_port, home.rest_port)
    home.configure(text.replace("canary: 2}", "canary: 2}\n    canary: {weight: 100}"))
    up = home.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    before = known(home)
    assert before.gateway is not None
    assert before.gateway_url is not None
    assert before.gateway_url in up.stdout
    assert predict(home).json() == {"predictions": [3.5]}
    assert predict(home).headers["x-servekit-label"] == "canary"
    assert read_splits(Bundle(home.root), container=False) == {"half_plus_two": Split(weight=100)}
    bare = plain_http.get(f"http://127.0.0.1:{before.server_rest_port}/v1/models/half_plus_two")
    assert bare.status_code == 200
    document = json.loads(home.run("status", "--json").stdout)
    assert document["engine"]["gateway"]["running"] is True

    os.kill(before.gateway.pid, signal.SIGKILL)
    wait_for(lambda: not before.gateway.is_running())
    status = home.run("status")
    assert status.returncode != 0
    assert f"the gateway (pid {before.gateway.pid}) has ended; the server (pid {before.pid}) runs" in status.stderr
    assert "hint: servekit up" in status.stderr
    again = home.run("up")
    assert again.returncode == 0, again.stderr
    assert "the gateway had ended and was started again" in again.stderr
    after = known(home)
    assert (after.pid, after.gateway_url) == (before.pid, before.gateway_url)
    assert predict(home).json() == {"predictions": [3.5]}

    # The server dies, and the gateway keeps the ports until somebody ends it.
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: not after.is_running())
    assert predict(home).status_code == 503
    assert home.run("up", "--detach").returncode == 0
    assert is_answered(home)
    assert home.run("down").returncode == 0
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_in_the_foreground_gateway_and_controller_come_back_by_themselves_and_all_end_with_up(home: Home) -> None:
    up = home.popen("up", "--no-demo")
    wait_for(lambda: is_answered(home))
    first = known(home).gateway
    assert first is not None
    wait_for(lambda: controller_pid(home) is not None)
    watching = controller_pid(home)
    assert watching is not None
    os.kill(first.pid, signal.SIGKILL)
    os.kill(watching, signal.SIGKILL)
    wait_for(lambda: (now := known(home).gateway) is not None and now.pid != first.pid)
    wait_for(lambda: is_answered(home))
    wait_for(lambda: controller_pid(home) not in (None, watching))
    up.send_signal(signal.SIGKILL)  # of `up` itself, which can then end nothing
    up.wait()
    wait_for(lambda: not home.processes())

    up = home.popen("up", "--no-demo")
    wait_for(lambda: is_answered(home))
    stop = threading.Event()
    answers: list[int | str] = []

    def ask() -> None:
        with plain_http.Http(timeout=10) as client:
            url = f"http://127.0.0.1:{home.rest_port}/v1/models/half_plus_two:predict"
            is_new = True
            while not stop.is_set():
                try:
                    answer = client.post(url, json={"instances": [1.0]})
                except httpx.ConnectError:
                    return  # no new connections: the end is near
                except httpx.HTTPError as error:
                    # A new connection that nobody had accepted when the port was closed is reset by Linux.
                    if not (is_new and "reset by peer" in str(error)):
                        answers.append(repr(error))
                    return
                answers.append(answer.status_code)
                is_new = answer.headers.get("connection") == "close"

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: len(answers) > 3)
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 130
    stop.set()
    asking.join()
    assert set(answers) == {200}  # nothing that was begun was cut
    assert_nothing_is_left(home)


@pytest.mark.slow
def test_off_means_that_clients_reach_the_server_itself(home: Home) -> None:
    home.configure(SERVING % (home.grpc_port, home.rest_port) + "gateway: {enabled: false}\n")
    assert home.run("up", "--detach").returncode == 0
    assert known(home).gateway is None
    assert known(home).server_grpc_url == known(home).grpc_url
    assert predict(home).json() == {"predictions": [3.5]}  # the highest version
    assert not (home.root / "config" / "rendered" / "gateway").exists()
    assert home.run("down").returncode == 0


def test_a_port_that_is_taken_is_named_before_anything_starts(home: Home) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        home.configure(SERVING % (home.grpc_port, home.rest_port) + f"gateway: {{metrics_port: {port}}}\n")
        up = home.run("up", "--detach")
    assert up.returncode != 0
    assert f"port {port} is in use" in up.stderr
    assert "section gateway of serving.yaml" in up.stderr
    assert_nothing_is_left(home)


def test_without_envoy_only_a_canary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from servekit.config.serving import Serving

    monkeypatch.setattr(program, "find", lambda: None)
    labels = {"versions": {"specific": [1, 2]}, "labels": {"stable": 1, "canary": 2}}
    assert gateway.envoy(Serving.model_validate({"models": {"m": labels}})) is None
    with pytest.raises(EngineError, match="canary needs the gateway, and Envoy"):
        gateway.envoy(Serving.model_validate({"models": {"m": labels | {"canary": {"weight": 5}}}}))


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path, home: Home) -> None:
    here, envoy = Bundle(home.root), program.find()
    assert envoy is not None
    from servekit.config.load import load

    plan = gateway.plan(load(here.serving_yaml), envoy, here, bind="127.0.0.1", grpc_port=1, rest_port=2)
    running = state.EngineState("embedded", os.getpid(), "", "127.0.0.1", 1, 2, "", "", "")
    with pytest.raises(EngineError, match=r"the gateway ended \(exit status 1\)(.|\n)*routes.yaml' does not exist"):
        gateway.start(plan, here, running, detach=True)
    assert served_generation(plan.metrics_url, 1) is None


def test_a_controller_that_keeps_ending_is_said_once_and_the_server_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Bundle(home.root)
    own = state.EngineState("embedded", os.getpid(), state.born(os.getpid()) or "", "127.0.0.1", 1, 2, "", "", "")
    state.write(here, own)

    def ended() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["true"])
        child.wait()
        return child

    monkeypatch.setattr(controller, "start", lambda _bundle, *, detach: ended())
    guard = controller.Guard(here, ended())
    assert [guard.started_again() for _ in range(3)] == [True, True, True]
    with pytest.raises(EngineError, match="the controller ended 4 times in 30 s and is not started again"):
        guard.started_again()
    assert not guard.started_again()
    with only_one(here, watches=True):  # somebody's own
        assert not controller.Guard(here, ended()).started_again()
    state.write(here, dataclasses.replace(own, stopping=True))
    assert not controller.Guard(here, ended()).started_again()
    state.remove(here)
