"""Webhooks and commands that have a say."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from servekit.analysis.gates import ask_all
from servekit.analysis.verdict import Answer
from servekit.config.canary import Gate
from tests.analysis.web import Asked, web
from tests.conftest import free_port
from tests.standing_still import StandingStill

QUESTION = {"model": "imagenet", "stable": 1, "canary": 2, "weight": 10, "phase": "analysis"}


def answer_of(gate: Gate, folder: Path = Path()) -> Answer:
    return ask_all({"it": gate}, QUESTION, folder.absolute())["it"]


def shell(script: str, timeout: str = "10s") -> Gate:
    return Gate(command=("/bin/sh", "-c", script), timeout=timeout)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"looks good", Answer(True, "looks good")),
        (204, b"", Answer(True, "HTTP 204")),
        (409, b"the release is\nfrozen\n", Answer(False, "the release is frozen")),
        (500, b"", Answer(False, "HTTP 500")),
        (302, b"elsewhere", Answer(False, "elsewhere")),
        (200, b"\x1b[31mred\x00 \xff" + b"x" * 999, Answer(True, "[31mred " + "\ufffd" + "x" * 290 + "…")),
    ],
    ids=["yes", "yes without words", "no", "an error", "a redirection is no yes", "control characters and a long text"],
)
def test_a_webhook_says_yes_with_2xx_and_why_in_its_body(status: int, body: bytes, expected: Answer) -> None:
    with web(lambda _: (status, body)) as server:
        assert answer_of(Gate(url=f"{server.url}/canary")) == expected
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/canary", "application/json")
    assert json.loads(asked.body) == QUESTION


def test_a_webhook_that_nobody_answers_fails() -> None:
    answer = answer_of(Gate(url=f"http://127.0.0.1:{free_port()}/"))
    assert not answer.passed
    assert answer.text.startswith("not reached: ")


def test_a_webhook_that_hangs_fails_at_its_timeout() -> None:
    go_on = threading.Event()

    def hang(_: Asked) -> tuple[int, bytes]:
        go_on.wait(20)
        return 200, b""

    with web(hang) as server, StandingStill() as still:
        began = time.monotonic()
        assert answer_of(Gate(url=server.url, timeout="1s")) == Answer(False, "no answer within 1 s")
        assert time.monotonic() - began < 5 + still.seconds
        go_on.set()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo first; echo last; exit 0", Answer(True, "last")),
        ("exit 0", Answer(True, "exit status 0")),
        ("echo too late >&2; exit 3", Answer(False, "too late")),
        ("exit 1", Answer(False, "exit status 1")),
        ("kill -SEGV $$", Answer(False, "ended by SIGSEGV")),
        ("yes | head -c 3000000; echo; echo end", Answer(True, "end")),
    ],
    ids=["yes", "silent yes", "no", "silent no", "a crash", "much output"],
)
def test_a_command_says_yes_with_0_and_why_in_its_last_line(script: str, expected: Answer) -> None:
    assert answer_of(shell(script)) == expected


def test_a_command_reads_the_question_runs_in_the_bundle_and_sees_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_ADMIN_PASSWORD", "secret")
    program = "import json, os, sys; print(json.dumps([json.load(sys.stdin), os.getcwd(), sorted(os.environ)]))"
    question, folder, names = json.loads(answer_of(Gate(command=(sys.executable, "-c", program)), tmp_path).text)
    assert question == QUESTION
    assert Path(folder) == tmp_path
    assert "PATH" in names
    assert not {"GRAFANA_ADMIN_PASSWORD", "PYTHONPATH"} & set(names)


def test_a_command_that_is_not_there_fails_and_is_named() -> None:
    assert answer_of(Gate(command=("no-such-program", "-x"))) == Answer(
        False, "no-such-program does not start: No such file or directory"
    )


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    gate = shell(f"sleep 60 & echo $! >{tmp_path}/pid; trap '' TERM; sleep 60", timeout="1s")
    with StandingStill() as still:
        began = time.monotonic()
        assert answer_of(gate) == Answer(False, "not done within 1 s, killed")
        assert time.monotonic() - began < 5 + still.seconds
    assert_gone(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    with StandingStill() as still:
        began = time.monotonic()
        assert answer_of(shell(f"sleep 60 & echo $! >{tmp_path}/pid; echo done")) == Answer(True, "done")
        assert time.monotonic() - began < 5 + still.seconds
    assert_gone(int((tmp_path / "pid").read_text()))


def test_gates_are_asked_at_the_same_time(tmp_path: Path) -> None:
    meet = "touch {name}; until [ -e a ] && [ -e b ] && [ -e c ]; do sleep 0.01; done; echo {name}"
    answers = ask_all({name: shell(meet.format(name=name), timeout="60s") for name in "abc"}, QUESTION, tmp_path)
    assert answers == {name: Answer(True, name) for name in "abc"}


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline, f"{pid} still runs: {Path(f'/proc/{pid}/exe').readlink()}"
        time.sleep(0.05)
