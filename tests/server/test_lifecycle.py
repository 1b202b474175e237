"""The whole server as a process: starting, reloading, ending."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import itertools
import json
import platform
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests import plain_http
from tests.conftest import RunningServer, Serve
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow


def config(base: Path | str, policy: str = "latest { num_versions: 1 }", labels: str = "", name: str = "m") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" '
        f"model_version_policy {{ {policy} }} {labels} }}"
    )


def label(name: str, version: int) -> str:
    return f'version_labels {{ key: "{name}" value: {version} }}'


def listed(*models: str) -> str:
    return "model_config_list { " + " ".join(models) + " }"


def write(server: RunningServer, text: str) -> None:
    """Replaces models.config with one rename."""
    new = server.work / "models.config.new"
    new.write_text(text)
    new.rename(server.work / "models.config")


def call(server: RunningServer, path: str, body: object = None, timeout: float = 20) -> tuple[int, object]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(server.rest + path, data, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def predict(server: RunningServer, target: str = "m") -> object:
    """The answer to x = 1: 2.5 of version 1, 3.5 of version 2."""
    status, answer = call(server, f"/v1/models/{target}:predict", {"instances": [1.0]})
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer["predictions"][0]


def states(server: RunningServer, model: str = "m") -> dict[int, str]:
    status, answer = call(server, f"/v1/models/{model}")
    assert status == 200, answer
    assert isinstance(answer, dict)
    return {int(s["version"]): s["state"] for s in answer["model_version_status"]}


def wait_for(server: RunningServer, wanted: dict[int, str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while (now := states(server)) != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


TGKILL = {"x86_64": 234, "aarch64": 131}
"""Number of the system call, by machine."""
CONFIG_FLAGS = ("--model_config_file={work}/models.config", "--model_config_file_poll_wait_seconds=1")
BOTH = "specific { versions: [1, 2] }"


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    """Serves `m`: both versions of half_plus_two, `canary` at 1."""
    text = listed(config(models / "half_plus_two", BOTH, label("canary", 1)))
    flags = (*CONFIG_FLAGS, "--allow_version_labels_for_unavailable_models=true", "--max_num_load_retries=0")
    return serve(*flags, files={"models.config": text})


def test_it_serves_what_the_file_lists(server: RunningServer) -> None:
    assert states(server) == {1: "AVAILABLE", 2: "AVAILABLE"}
    assert (predict(server), predict(server, "m/versions/1"), predict(server, "m/labels/canary")) == (3.5, 2.5, 2.5)


def test_a_label_moves_while_a_client_loops_and_no_request_fails(server: RunningServer, models: Path) -> None:
    answers: list[object] = []
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            try:
                answers.append(predict(server, "m/labels/canary"))
            except (OSError, AssertionError) as error:
                answers.append(error)

    client = threading.Thread(target=loop)
    client.start()
    try:
        for version, answer in ((2, 3.5), (1, 2.5)):
            write(server, listed(config(models / "half_plus_two", BOTH, label("canary", version))))
            deadline = time.monotonic() + 30
            while answers[-1:] != [answer]:
                assert time.monotonic() < deadline, answers[-1:]
                time.sleep(0.02)
    finally:
        done.set()
        client.join(20)
    assert set(map(str, answers)) == {"2.5", "3.5"}
    changes = sum(before != after for before, after in itertools.pairwise(answers))
    assert changes == 2


def test_a_file_that_can_not_be_parsed_leaves_the_old_configuration(server: RunningServer, models: Path) -> None:
    before = len(server.log_text())
    write(server, "model_config_list { config { name: ")
    deadline = time.monotonic() + 30
    while "Failed to read ModelServerConfig file: Invalid protobuf file" not in server.log_text()[before:]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert predict(server) == 3.5
    write(server, listed(config(models / "half_plus_two", BOTH, label("canary", 1))))


def test_a_version_that_can_not_be_loaded_disturbs_nobody(serve: Serve, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "half_plus_two" / "1", tmp_path / "m" / "1")
    server = serve("--model_name=m", f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0")
    (tmp_path / "m" / ".2").mkdir()
    (tmp_path / "m" / ".2" / "saved_model.pb").write_bytes(b"garbage" * 100)
    (tmp_path / "m" / ".2").rename(tmp_path / "m" / "2")
    wait_for(server, {1: "AVAILABLE", 2: "END"})
    assert predict(server) == 2.5
    shutil.copytree(models / "half_plus_two" / "2", tmp_path / "m" / ".3")
    (tmp_path / "m" / ".3").rename(tmp_path / "m" / "3")
    wait_for(server, {1: "END", 2: "END", 3: "AVAILABLE"})
    assert predict(server) == 3.5


def test_a_version_folder_without_its_model_file_is_not_served(serve: Serve, models: Path, tmp_path: Path) -> None:
    """A copy that has not got to saved_model.pb yet fails; with retries it loads once the copy is complete."""
    shutil.copytree(models / "half_plus_two" / "1", tmp_path / "m" / "1")
    retries = ("--max_num_load_retries=100", "--load_retry_interval_micros=200000")
    server = serve("--model_name=m", f"--model_base_path={tmp_path / 'm'}", *retries)
    half = tmp_path / "m" / "2"
    shutil.copytree(models / "half_plus_two" / "2", half, ignore=shutil.ignore_patterns("saved_model.pb"))
    server.wait_for_log("Retrying of Loading servable: {name: m version: 2} retry: 1")
    assert states(server) == {1: "AVAILABLE", 2: "LOADING"}
    assert predict(server) == 2.5
    shutil.copy(models / "half_plus_two" / "2" / "saved_model.pb", half / ".part")
    (half / ".part").rename(half / "saved_model.pb")
    wait_for(server, {1: "END", 2: "AVAILABLE"})


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_lets_a_running_request_end_and_leaves_no_process(
    serve: Serve, models: Path, sign: signal.Signals, status: int
) -> None:
    server = serve("--model_name=s", f"--model_base_path={models / 'sleep'}")
    children = psutil.Process(server.process.pid).children(recursive=True)
    answers: list[tuple[int, object]] = []
    sleeping = threading.Thread(
        target=lambda: answers.append(call(server, "/v1/models/s:predict", {"instances": [700]}))
    )
    sleeping.start()
    wait_until_asked(server)
    time.sleep(0.25)  # it is nearly done: Ctrl-C waits for a second, of which a busy machine may take the most
    began = time.monotonic()
    with StandingStill() as still:
        assert server.stop(sign) == status
    assert time.monotonic() - began < 4 + still.seconds
    sleeping.join(10)
    assert answers == [(200, {"predictions": [700]})]
    assert not [child for child in children if child.is_running()]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.rest_port), timeout=1):
        pass


def test_a_request_that_does_not_end_does_not_keep_the_server_alive(serve: Serve, models: Path) -> None:
    server = serve("--model_name=s", f"--model_base_path={models / 'sleep'}")
    stuck = threading.Thread(target=lambda: _swallow(server), daemon=True)
    stuck.start()
    wait_until_asked(server)
    began = time.monotonic()
    with StandingStill() as still:
        assert server.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10 + still.seconds  # `docker stop` kills after 10 s


def wait_until_asked(server: RunningServer) -> None:
    """A client is connected, and has had time to ask."""
    process, deadline = psutil.Process(server.process.pid), time.monotonic() + 20
    while not any(
        c.laddr.port == server.rest_port and c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)


def _swallow(server: RunningServer) -> None:
    with contextlib.suppress(OSError):
        call(server, "/v1/models/s:predict", {"instances": [60_000]}, timeout=30)


def test_a_signal_while_models_load_ends_the_server_at_once(serve: Serve, tmp_path: Path) -> None:
    server = serve("--model_name=m", f"--model_base_path={tmp_path / 'missing'}", ready=False)
    server.wait_for_log("Could not find base path", 60)
    began = time.monotonic()
    with StandingStill() as still:
        assert server.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 4 + still.seconds


@pytest.mark.skipif(platform.machine() not in TGKILL or platform.system() != "Linux", reason="a call of Linux's")
def test_a_signal_that_another_thread_gets_ends_the_server_too(serve: Serve, models: Path) -> None:
    """The system chooses the thread: not always the first one, which Python's handlers run in."""
    server = serve("--model_name=m", f"--model_base_path={models / 'half_plus_two'}")
    pid = server.process.pid
    other = next(thread.id for thread in psutil.Process(pid).threads() if thread.id != pid)
    assert ctypes.CDLL(None).syscall(TGKILL[platform.machine()], pid, other, signal.SIGTERM) == 0
    assert server.process.wait(30) == 0


START_FAILURES = [
    ((), {}, "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!"),
    (CONFIG_FLAGS, {}, "NOT_FOUND: {work}/models.config; No such file or directory"),
    (CONFIG_FLAGS, {"models.config": "nonsense"}, "INVALID_ARGUMENT: Invalid protobuf file: '{work}/models.config'"),
    (
        CONFIG_FLAGS,
        {"models.config": "custom_model_config { }"},
        "INVALID_ARGUMENT: ModelServer does not yet support custom model config.",
    ),
    (
        ("--model_base_path=/m", "--monitoring_config_file={work}/m.config"),
        {"m.config": "nonsense"},
        "INVALID_ARGUMENT: Invalid protobuf file: '{work}/m.config'",
    ),
    (
        ("--model_base_path=/m", "--tensorflow_session_config_file={work}/s.config"),
        {"s.config": "intra_op_parallelism_threads: many"},
        "INVALID_ARGUMENT: Invalid protobuf file: '{work}/s.config'",
    ),
    (
        ("--model_base_path=/m", "--batching_parameters_file={work}/b.config"),
        {"b.config": ""},
        "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting "
        "server_options.enable_batching to true.",
    ),
]


@pytest.mark.parametrize(
    ("flags", "files", "message"),
    START_FAILURES,
    ids=[
        "no model",
        "no file",
        "unparsable",
        "custom config",
        "bad monitoring file",
        "bad session file",
        "batching file without batching",
    ],
)
def test_what_keeps_the_server_from_starting(
    serve: Serve, flags: tuple[str, ...], files: dict[str, str], message: str
) -> None:
    server = serve(*flags, files=files, ready=False)
    assert server.process.wait(30) == 255
    assert f"Failed to start server. Error: {message.format(work=server.work)}\n" in server.log_text()


def test_a_port_in_use_keeps_the_server_from_starting(serve: Serve, server: RunningServer, models: Path) -> None:
    second = serve(f"--rest_api_port={server.rest_port}", f"--model_base_path={models / 'half_plus_two'}", ready=False)
    assert second.process.wait(60) == 255
    assert f"{server.rest_port}" in second.log_text().splitlines()[-1]


def test_a_wrong_value_prints_the_usage_and_ends(serve: Serve) -> None:
    server = serve("--enable_batching=yes", ready=False)
    assert server.process.wait(30) == 255
    assert "Couldn't interpret value yes for flag enable_batching." in server.log_text()
    assert "usage: servekit serve" in server.log_text()


def test_an_unknown_argument_is_reported_and_a_flag_without_effect_too_others_take_effect(
    serve: Serve, models: Path
) -> None:
    server = serve(
        *("--no_such_flag=1", "--prefer_tflite_model", f"--model_base_path={models / 'half_plus_two'}"),
        *("--rest_api_enable_cors_support", "--tensorflow_session_config_file={work}/session.config"),
        files={"session.config": "intra_op_parallelism_threads: 1 inter_op_parallelism_threads: 1"},
    )
    assert "unknown argument: --no_such_flag=1\nusage: servekit serve" in server.log_text()
    assert "--prefer_tflite_model has no effect in this server" in server.log_text()
    assert states(server, "default") == {2: "AVAILABLE"}
    for path in ("/v1/models/default", "/v1/models/nope"):
        answer = plain_http.get(server.rest + path, headers={"Origin": "https://a.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"
    assert "access-control-allow-origin" not in plain_http.get(f"{server.rest}/nope").headers
    packed = gzip.compress(b'{"instances": [1.0]}')
    answer = plain_http.post(
        f"{server.rest}/v1/models/default:predict", content=packed, headers={"Content-Encoding": "gzip"}
    )
    assert answer.json() == {"predictions": [3.5]}


def test_the_environment_chooses_the_address(server: RunningServer) -> None:
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    addresses = {c.laddr.ip.removeprefix("::ffff:") for c in connections if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
