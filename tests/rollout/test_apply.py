"""`servekit apply` on a running server: what serving.yaml says comes about, and no request is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from servekit.client import Client, ModelSpec
from servekit.config.bundle import render_bundle
from servekit.config.flags import server_flags
from servekit.config.load import load
from servekit.errors import StatusError
from servekit.paths import Bundle
from servekit.rollout.at_work import only_one
from servekit.rollout.controller import Controller
from servekit.rollout.metrics import Metrics
from servekit.rollout.watch import Watch, desired
from tests import plain_http
from tests.conftest import ROOT, RunningServer, Serve, free_port

pytestmark = pytest.mark.slow

PORTS = ("--port=", "--rest_api_port=")


class Home:
    """A bundle whose model has versions 1 to 4 on disk, 4 being garbage."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root, self.source = root, models / "half_plus_two"
        (root / "config").mkdir()
        shutil.copytree(ROOT / "config" / "templates", root / "config" / "templates")
        for version in (1, 2, 3):
            shutil.copytree(self.source / str(min(version, 2)), self.version(version))
        self.break_version(4)
        self.server: RunningServer | None = None

    def version(self, number: int, model: str = "half") -> Path:
        return self.root / "models" / model / str(number)

    def break_version(self, number: int) -> None:
        shutil.rmtree(self.version(number), ignore_errors=True)
        self.version(number).mkdir(parents=True)
        (self.version(number) / "saved_model.pb").write_bytes(b"no protobuf")

    def write(self, versions: str, labels: str, more: str = "") -> None:
        text = f"models:\n  half:\n    versions: {versions}\n    labels: {labels}\n{more}"
        text += "server: {max_num_load_retries: 0}\n"
        staged = self.root / "config" / "new"
        staged.write_text(text)
        staged.replace(self.root / "config" / "serving.yaml")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        assert self.server is not None
        address = ("--url", f"grpc://{self.server.grpc}")
        return subprocess.Popen(
            [sys.executable, "-m", "servekit", "apply", *arguments, *address],
            env=os.environ | {"SERVEKIT_HOME": str(self.root), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def apply(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def converge(self) -> bool:
        """As `apply`, without a process of its own."""
        assert self.server is not None
        bundle = Bundle(self.root)
        with Client(f"grpc://{self.server.grpc}") as client, only_one(bundle):
            return not Controller(bundle, client, lambda _: None).converge(desired(bundle))

    def config(self) -> str:
        return (self.root / "config" / "rendered" / "models.config").read_text()

    def states(self, model: str = "half") -> dict[int, str]:
        assert self.server is not None
        with Client(f"grpc://{self.server.grpc}") as client:
            return {one.version: one.state for one in client.status(model).versions}

    def means(self, label: str, model: str = "half") -> int | str:
        assert self.server is not None
        with Client(f"grpc://{self.server.grpc}") as client:
            try:
                return client.metadata(ModelSpec(model, version_label=label)).version
            except StatusError as error:
                return error.code.name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, models: Path, serve: Serve) -> Home:
    home = Home(tmp_path_factory.mktemp("bundle"), models)
    home.write("{specific: [1, 2]}", "{stable: 1, canary: 2}")
    bundle = Bundle(home.root)
    render_bundle(bundle)
    flags = server_flags(load(bundle.serving_yaml), rendered=bundle.rendered, port=0, rest_api_port=0)
    home.server = serve(*(flag for flag in flags if not flag.startswith(PORTS)))
    return home


@pytest.fixture(autouse=True)
def as_at_first(home: Home) -> None:
    """Versions 1 and 2 are served, whatever the test before did."""
    if not home.version(4).is_dir():
        home.break_version(4)
    home.write("{specific: [1, 2]}", "{stable: 1, canary: 2}")
    assert home.converge()


@pytest.fixture
def answers(home: Home) -> Iterator[list[str]]:
    """Errors that clients of stable and canary get over both protocols, while the test runs."""
    errors, stop = list[str](), threading.Event()
    assert home.server is not None
    urls = (home.server.rest, f"grpc://{home.server.grpc}")

    def ask(url: str, label: str) -> None:
        with Client(url) as client:
            while not stop.is_set():
                try:
                    client.predict(ModelSpec("half", version_label=label), [1.0])
                except StatusError as error:
                    errors.append(f"{label}: {error}")
                time.sleep(0.02)

    clients = [threading.Thread(target=ask, args=(url, label)) for url in urls for label in ("stable", "canary")]
    for client in clients:
        client.start()
    yield errors
    stop.set()
    for client in clients:
        client.join()


def test_one_edit_that_tf_serving_would_never_take_comes_about_without_a_lost_request(
    home: Home, answers: list[str]
) -> None:
    home.write("{specific: [2, 3]}", "{stable: 2, canary: 3}")
    result = home.apply()
    assert result.returncode == 0, result.stderr
    steps = [line.strip() for line in result.stderr.splitlines() if line.endswith("...")]
    assert steps == [
        "half: load version 3 ...",
        "half: move label stable from 1 to 2, canary from 2 to 3 ...",
        "half: retire version 1 ...",
    ]
    assert (home.means("stable"), home.means("canary")) == (2, 3)
    assert home.states() == {3: "AVAILABLE", 2: "AVAILABLE", 1: "END"}
    time.sleep(0.3)
    assert answers == []


def test_an_edit_rendered_by_hand_that_freezes_the_server_is_untangled(home: Home, answers: list[str]) -> None:
    home.write("{specific: [1, 2, 3]}", "{stable: 1, canary: 3}")
    render_bundle(Bundle(home.root))
    assert home.server is not None
    home.server.wait_for_log("PollFilesystemAndReloadConfig failed to ReloadConfig")
    assert home.means("canary") == 2
    result = home.apply()
    assert result.returncode == 0, result.stderr
    assert home.means("canary") == 3
    assert answers == []


def test_a_version_that_does_not_load_is_taken_out_again_and_tried_anew_once_it_is_repaired(
    home: Home, answers: list[str]
) -> None:
    home.write("{specific: [1, 2, 4]}", "{stable: 1, canary: 4}")
    result = home.apply()
    assert result.returncode == 1
    assert "error: half: load version 4: failed: version 4 is AVAILABLE is not so" in result.stderr
    assert "versions: [1, 2]" in home.config()
    assert (home.means("stable"), home.means("canary")) == (1, 2)
    shutil.rmtree(home.version(4))
    shutil.copytree(home.source / "2", home.version(4))
    result = home.apply()
    assert result.returncode == 0, result.stderr
    assert home.means("canary") == 4
    assert answers == []
    shutil.rmtree(home.version(4))


def test_a_dry_run_tells_the_plan_and_writes_nothing(home: Home) -> None:
    before = home.config()
    assert home.apply("--dry-run").returncode == 0
    home.write("{specific: [1, 2, 3]}", "{stable: 1, canary: 3}")
    result = home.apply("--dry-run")
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "half 1. load version 3",
        "     until version 3 is AVAILABLE",
        "half 2. move label canary from 2 to 3",
        "     until label canary means version 3",
    ]
    document = json.loads(home.apply("--dry-run", "--json").stdout)
    assert [step["why"] for step in document["models"][0]["steps"]] == [
        "load version 3",
        "move label canary from 2 to 3",
    ]
    assert home.config() == before


def test_a_model_comes_and_goes_and_the_others_stay(home: Home, answers: list[str]) -> None:
    shutil.copytree(home.source / "1", home.version(1, "other"), dirs_exist_ok=True)
    more = "  other:\n    versions: {specific: [1]}\n    labels: {stable: 1}\n"
    home.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", more)
    result = home.apply("--json")
    assert result.returncode == 0, result.stderr
    assert [event["step"] for event in json.loads(result.stdout)["events"]] == [
        "add the model with version 1",
        "move label stable to 1",
    ]
    assert home.means("stable", "other") == 1
    home.write("{specific: [1, 2]}", "{stable: 1, canary: 2}")
    assert home.apply().returncode == 0
    assert home.states("other") == {1: "END"}
    assert answers == []


def test_killed_at_any_moment_the_next_one_goes_on_and_no_label_is_lost(home: Home, answers: list[str]) -> None:
    ways = [("{specific: [2, 3]}", "{stable: 2, canary: 3}"), ("{specific: [1, 2]}", "{stable: 1, canary: 2}")]
    for number, moment in enumerate((0.6, 1.2, 2.2)):
        home.write(*ways[number % 2])
        process = home.start()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert home.converge()
        assert home.means("canary") == (3, 2)[number % 2]
    assert answers == []


def test_nonsense_in_serving_yaml_is_refused_before_the_server_sees_it(home: Home) -> None:
    before = home.config()
    home.write("{specific: [1, 2]}", "{stable: 1, canary: 3}")
    result = home.apply()
    assert result.returncode == 2
    assert "models.half.labels.canary: points at version 3, which is not served" in result.stderr
    assert "hint: " in result.stderr
    assert home.config() == before


def test_without_a_server_it_says_so(home: Home) -> None:
    server, home.server = home.server, None
    try:
        result = subprocess.run(
            [sys.executable, "-m", "servekit", "apply", "--url", f"grpc://127.0.0.1:{free_port()}"],
            env=os.environ | {"SERVEKIT_HOME": str(home.root), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        home.server = server
    assert result.returncode == 1
    assert "no server to bring up to date" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_watching_one_follows_edits_outlives_nonsense_and_tells_prometheus(home: Home, answers: list[str]) -> None:
    port = free_port()
    process = home.start("--watch", "--metrics-port", str(port))
    try:
        wait_until(lambda: "servekit_rollout_converged_timestamp_seconds" in metrics(port))
        second = home.apply()
        assert second.returncode == 0
        assert "the controller at work here brings it about" in second.stderr
        home.write("{specific: [1, 2, 3]}", "{stable: 1, canary: 3}")
        wait_until(lambda: home.means("canary") == 3)
        actual = 'servekit_rollout_label_version{label="canary",model="half",side="actual"} 3.0'
        wait_until(lambda: actual in metrics(port))
        (home.root / "config" / "serving.yaml").write_text("models: [nonsense")
        wait_until(lambda: "servekit_rollout_errors_total 0.0" not in metrics(port))
        home.write("{specific: [1, 2, 4]}", "{stable: 1, canary: 4}")
        wait_until(lambda: 'servekit_rollout_steps_total{model="half",result="failed"} 1.0' in metrics(port))
        time.sleep(2.5)  # what failed is not tried again by itself
        assert 'result="failed"} 1.0' in metrics(port)
        assert (home.means("stable"), home.means("canary")) == (1, 3)
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert err.count("serving.yaml:2") == 1
    assert answers == []


def test_half_of_a_file_that_an_editor_writes_in_place_is_not_taken_for_the_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servekit.rollout.watch.WRITTEN_S", 20.0)  # however long this machine stands still
    shutil.copytree(home.source / "1", home.version(1, "other"), dirs_exist_ok=True)
    half, rest = ("{specific: [1, 2]}", "{stable: 1, canary: 2}"), "  other:\n    versions: {specific: [1]}\n"
    home.write(*half, rest)
    assert home.converge()
    home.write(*half)
    serving_yaml = home.root / "config" / "serving.yaml"
    assert home.server is not None
    with Client(f"grpc://{home.server.grpc}") as client, only_one(Bundle(home.root)):
        pauses: list[float] = []

        def write_the_rest(seconds: float) -> None:
            pauses.append(seconds)
            home.write(*half, rest)

        controller = Controller(Bundle(home.root), client, lambda _: None)
        watch = Watch(Bundle(home.root), controller, Metrics(), print, sleep=write_the_rest)
        serving_yaml.touch()
        watch.once()
    assert pauses == [20.0]
    assert '"other"' in home.config()
    assert home.states("other") == {1: "AVAILABLE"}


def test_history_tells_what_was_done(home: Home) -> None:
    home.write("{specific: [1, 2]}", "{stable: 2, canary: 2}")
    assert home.apply().returncode == 0
    last = json.loads(home.apply("--history", "--json").stdout)["events"][-1]
    assert (last["model"], last["step"], last["result"]) == ("half", "move label stable from 1 to 2", "done")
    assert "move label stable from 1 to 2: done" in home.apply("--history").stdout


def test_a_full_disk_or_forbidden_folder_leaves_the_server_as_it_was(home: Home) -> None:
    rendered = home.root / "config" / "rendered"
    home.write("{specific: [1, 2, 3]}", "{stable: 1, canary: 3}")
    moved = rendered.with_name("elsewhere")
    rendered.rename(moved)
    rendered.write_text("a file in the way")
    try:
        result = home.apply()
    finally:
        rendered.unlink()
        moved.rename(rendered)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert (home.means("stable"), home.means("canary")) == (1, 2)
    assert home.apply().returncode == 0


def metrics(port: int) -> str:
    try:
        return plain_http.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.HTTPError:
        return ""


def wait_until(true: object, seconds: float = 90) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
