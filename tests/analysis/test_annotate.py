"""Marks on Grafana's dashboards: its documented API, and everything that may be wrong with it."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path

import pytest

from servekit.analysis.annotate import Grafana, from_environment
from tests.analysis.web import Asked, web
from tests.conftest import free_port
from tests.standing_still import StandingStill

LOGIN = "Basic " + base64.b64encode(b"admin:made at the first start").decode()


def grafana(asked: Asked) -> tuple[int, bytes]:
    """As Grafana's HTTP API documents `POST /api/annotations`: what it takes, and what it says otherwise."""
    if asked.headers.get("authorization") not in (LOGIN, "Bearer glsa_token"):
        return 401, b'{"message": "Invalid username or password"}'
    if (asked.method, asked.path) != ("POST", "/grafana/api/annotations"):
        return 404, b'{"message": "Not found"}'
    body = json.loads(asked.body)
    known = {"dashboardUID": str, "panelId": int, "time": int, "timeEnd": int, "tags": list, "text": str}
    typed = all(name in known and isinstance(value, known[name]) for name, value in body.items())
    if asked.headers.get("content-type") != "application/json" or not typed or not body.get("text"):
        return 400, b'{"message": "bad request data"}'
    return 200, b'{"message": "Annotation added", "id": 1}'


@pytest.mark.parametrize(
    "environment",
    [
        {"SERVEKIT_GRAFANA_TOKEN": "glsa_token"},
        {"SERVEKIT_GRAFANA_PASSWORD": "made at the first start"},
        {"SERVEKIT_GRAFANA_PASSWORD_FILE": "{file}"},
        {"SERVEKIT_GRAFANA_PASSWORD_FILE": "{file}", "GRAFANA_ADMIN_USER": ""},
    ],
    ids=["token", "password", "password file", "a variable that Compose left empty"],
)
def test_an_annotation_is_tagged_and_signed(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "password").write_text("made at the first start\n")
    values = {name: value.format(file=tmp_path / "password") for name, value in environment.items()}
    with web(grafana) as server:
        found = from_environment({"SERVEKIT_GRAFANA_URL": f"{server.url}/grafana/", **values})
        assert found is not None
        assert found.annotate("imagenet", "rolled back", "version 2: p99 ratio 3 (≤ 1.5)", at_s=1000.5) == ""
    assert json.loads(server.asked[0].body) == {
        "time": 1_000_500,
        "tags": ["servekit", "imagenet", "rolled back"],
        "text": "version 2: p99 ratio 3 (≤ 1.5)",
    }


def test_without_an_address_there_is_no_grafana() -> None:
    assert from_environment({}) is None
    assert from_environment({"SERVEKIT_GRAFANA_URL": ""}) is None


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SERVEKIT_GRAFANA_TOKEN": "x"}, "SERVEKIT_GRAFANA_TOKEN without SERVEKIT_GRAFANA_URL (http://grafana"),
        ({"SERVEKIT_GRAFANA_URL": "http://x"}, "SERVEKIT_GRAFANA_URL without SERVEKIT_GRAFANA_TOKEN or a password: no"),
        (
            {"SERVEKIT_GRAFANA_URL": "http://x", "SERVEKIT_GRAFANA_PASSWORD_FILE": "/no/file"},
            "SERVEKIT_GRAFANA_URL without SERVEKIT_GRAFANA_TOKEN or a password ([Errno 2] No such file or directory",
        ),
        ({"SERVEKIT_GRAFANA_URL": "grafana:3000", "SERVEKIT_GRAFANA_TOKEN": "x"}, "should begin with http:// or https://"),
    ],
    ids=["token alone", "address alone", "password file that is not there", "no address"],
)  # fmt: skip
def test_half_a_setting_is_said_and_writes_nothing(
    environment: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert from_environment(environment) is None
    assert said in caplog.text
    assert "no annotations are written" in caplog.text


def test_a_refused_annotation_is_logged_with_grafana_s_words(caplog: pytest.LogCaptureFixture) -> None:
    with web(grafana) as server:
        wrong = Grafana(f"{server.url}/grafana", user="admin", password="wrong")
        assert wrong.annotate("imagenet", "promoted", "x") == "answers 401: Invalid username or password"
        right = Grafana(server.url, token="glsa_token")
        assert right.annotate("imagenet", "promoted", "x") == "answers 404: Not found"
    assert "Invalid username or password" in caplog.text
    assert "wrong" not in caplog.text


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid", "no address"])
def test_a_grafana_that_is_gone_never_hurts(url: str) -> None:
    began = time.monotonic()
    problem = Grafana(url.format(port=free_port()), token="x").annotate("imagenet", "promoted", "x")
    assert problem.startswith("does not answer: ")
    assert time.monotonic() - began < 10


def test_a_grafana_that_answers_no_json_never_hurts() -> None:
    with web(lambda _: (502, b"<html>")) as server:
        assert Grafana(server.url, token="x").annotate("imagenet", "promoted", "x") == "answers 502: Bad Gateway"


def test_a_grafana_that_hangs_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servekit.analysis.annotate.TIMEOUT_S", 0.2)

    go_on = threading.Event()

    def hang(_: Asked) -> tuple[int, bytes]:
        go_on.wait(20)
        return 200, b""

    with web(hang) as server, StandingStill() as still:
        began = time.monotonic()
        assert Grafana(server.url, token="x").annotate("imagenet", "promoted", "x").startswith("does not answer: ")
        assert time.monotonic() - began < 0.9 + still.seconds
        go_on.set()
