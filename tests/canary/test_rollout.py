"""A canary on a real server behind a real gateway: by commands, by hand, killed, cut off, and lied to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from servekit.gateway.splits import Split
from servekit.rollout.at_work import at_work
from tests.canary.conftest import MODEL, ONE, Clients, Stack, wait_until
from tests.conftest import ROOT, free_port

pytestmark = pytest.mark.slow

NO_ANALYSIS = "agreement: {minimum: off}, p99_ratio: off"


@pytest.fixture(autouse=True)
def only_version_one(stack: Stack) -> None:
    stack.write(*ONE)
    assert stack.converge()


def steps(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.strip().removesuffix(" ...") for line in result.stderr.splitlines() if line.endswith("...")]


def test_started_raised_and_promoted_by_commands_without_a_lost_request(stack: Stack, clients: Clients) -> None:
    started = stack.canary("start", MODEL, "--version", "2", "--weight", "20")
    assert started.returncode == 0, started.stderr
    assert "+    labels: {stable: 1, canary: 2}" in started.stdout.splitlines()
    assert "no server of `servekit up` runs here" in started.stderr
    result = stack.apply()
    assert steps(result) == [
        f"{MODEL}: load version 2",
        f"{MODEL}: move label canary to 2",
        f"{MODEL}: give 20 % of unlabelled requests to canary",
    ]
    assert (stack.labels(), stack.split()) == ({"stable": 1, "canary": 2}, Split(20))
    clients.count_anew()
    wait_until(lambda: clients.versions.total() > 100)
    assert 5 < 100 * clients.versions[2] / clients.versions.total() < 45
    stack.canary("weight", MODEL, "100")
    assert stack.converge()
    assert stack.steps == ["give 100 % of unlabelled requests to canary"]
    clients.count_anew()
    wait_until(lambda: clients.versions.total() > 20)
    promoted = stack.canary("promote", MODEL)
    assert promoted.returncode == 0, promoted.stderr
    assert stack.converge()
    assert stack.steps == [
        "move label stable from 1 to 2",
        "give 0 % of unlabelled requests to canary",
        "move label canary away",
        "retire version 1",
    ]
    assert (stack.labels(), stack.available(), stack.split()) == ({"stable": 2}, {2}, Split())
    assert clients.versions[1] == 0, "nobody goes back to the old version during a promotion"
    assert clients.errors == []
    assert stack.yaml.read_text().startswith("# mine\n")
    assert "canary" not in stack.yaml.read_text()


def test_an_abort_takes_the_traffic_away_first_and_keeps_the_reason(stack: Stack, clients: Clients) -> None:
    stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 50}")  # by hand, all in one edit
    assert stack.converge()
    aborted = stack.canary("abort", MODEL, "--reason", "too many cats")
    assert aborted.returncode == 0, aborted.stderr
    assert stack.converge()
    assert stack.steps == [
        "give 0 % of unlabelled requests to canary",
        "move label canary away",
        "retire version 2",
    ]
    assert (stack.labels(), stack.available(), stack.split()) == ({"stable": 1}, {1}, Split())
    assert "canary abort: aborted: too many cats" in stack.canary("history", MODEL).stdout
    assert json.loads(stack.canary("history", "another", "--json").stdout)["events"] == []
    assert clients.errors == []


KILLED = """
import os, signal, sys
from pathlib import Path
from servekit.client import Client
from servekit.paths import Bundle
from servekit.rollout.at_work import only_one
from servekit.rollout.controller import Controller, Settings
from servekit.rollout.watch import desired

root, server, gateway = sys.argv[1:]
bundle = Bundle(Path(root))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(when):
    class Mortal(Controller):
        def _take(self, *arguments):
            super()._take(*arguments)
            if when == "written":
                die()

    def listen(event):
        if event.result == when:
            die()

    with Client(server) as client, only_one(bundle):
        wrong = Mortal(bundle, client, listen, Settings(gateway_url=gateway, drain_s=0.5)).converge(desired(bundle))
    os._exit(1 if wrong else 0)

# One process has everything imported; each controller is a fork of it, with a client and a lock of its own.
for line in sys.stdin:
    if (child := os.fork()) == 0:
        run(line.strip())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def mortals(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    """Starts a controller for each line, the moment at which it is to be killed, and answers with its exit status."""
    command = [sys.executable, "-c", KILLED, str(stack.root), stack.reach[1], stack.gateway_url]
    with subprocess.Popen(
        command, env=stack.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def killed_at_every_step(stack: Stack, mortals: subprocess.Popen[str], when: str) -> int:
    """Runs controllers until one has nothing to do; every other is killed at its first step. How many died."""
    assert mortals.stdin
    assert mortals.stdout
    died, deadline = 0, time.monotonic() + 150
    while time.monotonic() < deadline:
        mortals.stdin.write(f"{when}\n")
        mortals.stdin.flush()
        status = int(mortals.stdout.readline())
        if status == 0:
            return died
        assert status == -signal.SIGKILL
        assert stack.history()["events"] is not None  # whole at any time
        died += 1
        time.sleep(0.3)  # the server looks once a second; until then the next one takes the same step again
    raise AssertionError("never done")


def test_a_controller_killed_at_every_step_of_a_whole_roll_out_loses_no_request(
    stack: Stack, clients: Clients, mortals: subprocess.Popen[str]
) -> None:
    stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 60, mirror: 10}")
    assert killed_at_every_step(stack, mortals, "written") >= 3
    assert (stack.labels(), stack.split()) == ({"stable": 1, "canary": 2}, Split(60, None, 10))
    stack.write("{specific: [2]}", "{stable: 2}")
    assert killed_at_every_step(stack, mortals, "written") >= 4
    assert (stack.labels(), stack.available(), stack.split()) == ({"stable": 2}, {2}, Split())
    stack.write("{specific: [2, 1]}", "{stable: 2, canary: 1}", "{weight: 10}")
    assert killed_at_every_step(stack, mortals, "done") >= 3
    assert stack.split() == Split(10)
    stack.write("{specific: [2]}", "{stable: 2}")
    assert killed_at_every_step(stack, mortals, "written") >= 3
    assert (stack.labels(), stack.available(), stack.split()) == ({"stable": 2}, {2}, Split())
    assert clients.errors == []


def test_without_the_gateway_labels_go_on_and_weights_wait_with_a_clear_text(stack: Stack) -> None:
    stack.kill_gateway()
    try:
        stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 30}")
        result = stack.apply()
        assert result.returncode == 1
        assert "waiting: the gateway does not answer at http://127.0.0.1:" in result.stderr
        assert stack.labels() == {"stable": 1, "canary": 2}
        stack.write("{specific: [1]}", "{stable: 1}")
        assert not stack.converge()
        assert stack.labels() == {"stable": 1, "canary": 2}, "nothing is taken away that a gateway may give out"
    finally:
        stack.restart_gateway()
    assert stack.converge()
    assert (stack.labels(), stack.split()) == ({"stable": 1}, Split())


def test_the_server_started_again_in_the_middle_serves_what_was_reached_and_goes_on(stack: Stack) -> None:
    stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 30}")
    process = stack.start("apply", *stack.reach)
    wait_until(lambda: 2 in stack.available())
    stack.restart_server()
    process.communicate(timeout=150)
    assert stack.converge()
    assert (stack.labels(), stack.split()) == ({"stable": 1, "canary": 2}, Split(30))


def test_a_full_disk_changes_nothing_that_is_served(stack: Stack, clients: Clients) -> None:
    """Files may not grow beyond a few bytes: what a full disk does to a write."""
    stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 30}")
    before = stack.yaml.read_text()
    limited = ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "-", sys.executable, "-m", "servekit"]
    for command in (["apply", *stack.reach], ["canary", "weight", MODEL, "70"]):
        result = subprocess.run(
            [*limited, *command], env=stack.env() | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
            check=False, timeout=150,
        )  # fmt: skip
        assert result.returncode == 1, result.stderr
        assert "cannot be written" in result.stderr
        assert "Traceback" not in result.stderr
    assert stack.yaml.read_text() == before
    assert (stack.labels(), stack.available()) == ({"stable": 1}, {1})
    assert stack.converge()
    assert stack.split() == Split(30)
    assert clients.errors == []


def steps_so_far(stack: Stack) -> set[str]:
    return {event["step"] for event in stack.history()["events"]}


def test_a_watching_controller_takes_commands_outlives_nonsense_and_promotes_by_itself(
    stack: Stack, clients: Clients
) -> None:
    stack.write(
        *ONE, f"{{analysis: {{interval: 1s, min_requests: 8, step_weight: 45, max_weight: 90, {NO_ANALYSIS}}}}}"
    )
    log = stack.root / "controller.log"
    watch = [sys.executable, "-m", "servekit", "apply", "--watch", *stack.reach]

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            process = subprocess.Popen(watch, env=stack.env(), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        wait_until(lambda: (found := at_work(stack.bundle)) and found.watches)
        return process

    controller = begin()
    try:
        started = stack.canary("start", MODEL, "--version", "2", "--auto", "--weight", "10")
        assert "the controller at work here brings it about" in started.stderr
        wait_until(lambda: (split := stack.split()) is not None and split.weight >= 10)
        good = stack.yaml.read_text()
        stack.yaml.write_text("models: [nonsense")
        refused = stack.canary("pause", MODEL)
        assert refused.returncode == 2
        assert "serving.yaml:" in refused.stderr
        time.sleep(2)  # it looks every second
        stack.yaml.write_text(good)
        wait_until(lambda: "weight of version 2 to 55 %" in steps_so_far(stack))
        controller.send_signal(signal.SIGKILL)
        controller.wait()
        controller = begin()
        wait_until(lambda: stack.available() == {2} and stack.labels() == {"stable": 2})
        wait_until(lambda: stack.split() == Split())
        stack.canary("start", MODEL, "--version", "4", "--auto")
        wait_until(lambda: any("version 4 did not load" in event["reason"] for event in stack.history()["events"]))
        assert stack.labels() == {"stable": 2}
        assert "canary: 4" not in stack.yaml.read_text()
    finally:
        controller.send_signal(signal.SIGTERM)
        controller.wait(60)
    said = log.read_text()
    assert "Traceback" not in said
    assert "promote version 2: promoted: passed at 90 %" in said
    results = [event["result"] for event in stack.history()["events"] if event["model"] == MODEL]
    assert "promoted" in results
    assert clients.errors == []


def test_status_shows_what_is_wanted_and_what_is(stack: Stack) -> None:
    stack.write("{specific: [1, 2]}", "{stable: 1, canary: 2}", "{weight: 30, sticky: x-user-id}")
    assert stack.converge()
    shown = stack.run("canary", "status", *stack.reach)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for text in ("half  canary, moved by hand", "70 %", "30 %", "AVAILABLE", "no controller watches"):
        assert text in shown.stdout
    stack.canary("weight", MODEL, "40")
    behind = stack.run("canary", "status", MODEL, *stack.reach)
    assert behind.returncode == 1
    assert "30 % (wanted: 40 %)" in behind.stdout
    blind = stack.run("canary", "status", "--url", stack.reach[1])
    assert "what the gateway gives out is not known" in blind.stdout
    assert "hint: servekit canary status --gateway-url http://HOST:PORT; in a stack" in blind.stdout
    alone = json.loads(stack.run("canary", "status", "--json", "--url", f"grpc://127.0.0.1:{free_port()}").stdout)
    assert "no model server answers" in alone["problems"][0]
    assert alone["hints"] == ["servekit up starts one; servekit canary status --url grpc://HOST:PORT asks another one"]
    unknown = stack.run("canary", "status", "nothing", *stack.reach)
    assert "no model nothing in serving.yaml (there are: half)" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["start", "nobody", "--version", "2"], 1, "serving.yaml:2: models: has no model nobody (there are: half)"),
        (["start", MODEL, "--version", "9"], 1, "models.half.versions: version 9 is not exported (there are: 1, 2, 3"),
        (["promote", MODEL], 1, "serving.yaml:5: models.half.labels: has no canary"),
        (["weight", MODEL, "101"], 2, "101 is not in the range 0<=x<=100"),
        (["start", MODEL, "--version", "2", "--sticky", "two words"], 2, "canary.sticky: should be the name of"),
    ],
    ids=["model", "version", "promote", "weight", "sticky"],
)
def test_a_wrong_command_is_refused_and_the_file_stays(
    stack: Stack, arguments: list[str], status: int, message: str
) -> None:
    before = stack.yaml.read_text()
    result = stack.canary(*arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert stack.yaml.read_text() == before


def test_with_the_gateway_off_a_canary_is_refused(stack: Stack) -> None:
    stack.yaml.write_text(stack.yaml.read_text() + "gateway: {enabled: false}\n")
    result = stack.canary("start", MODEL, "--version", "2")
    assert result.returncode == 1
    assert "the gateway is off" in result.stderr
    assert "hint: set gateway: {enabled: true}" in result.stderr
