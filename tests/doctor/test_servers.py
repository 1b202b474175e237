"""What can serve here, and what was left behind: real programs on PATH, real states."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from servekit.doctor import servers
from servekit.doctor.servers import EngineFacts
from servekit.engine import state
from servekit.engine.state import EngineState
from tests.doctor.homes import Home

GONE = EngineState("embedded", 1, "long ago", "127.0.0.1", 8500, 8501, "", "2026-11-22T06:00:00+00:00", "/x/server.log")
IN_DOCKER = dataclasses.replace(
    GONE, engine="docker", pid=0, container="6b1f2c0123456789", log="docker compose logs tfserving"
)


def codes(facts: EngineFacts) -> list[str]:
    return [found.code.removeprefix("engine.") for found in servers.judge(facts)]


def test_the_embedded_engine_works_here_and_nothing_is_left_behind(home: Home) -> None:
    facts = servers.gather(home.bundle, docker_works=False, containers=())
    assert facts.engines == ("embedded",)
    assert codes(facts) == []
    assert servers.gather(home.bundle, docker_works=True, containers=()).engines == ("docker", "embedded")


def test_no_engine_at_all_is_an_error() -> None:
    assert codes(EngineFacts(())) == ["none"]


@pytest.mark.parametrize(("script", "works"), [("exit 0", True), ("echo cannot run here >&2; exit 3", False)])
def test_a_native_server_has_to_run(home: Home, monkeypatch: pytest.MonkeyPatch, script: str, works: bool) -> None:
    program = home.root / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    facts = servers.gather(home.bundle, docker_works=False, containers=())
    assert ("native" in facts.engines) is works
    assert codes(facts) == ([] if works else ["native-broken"])
    assert works or facts.native_problem == "cannot run here (exit status 3)"


def test_a_server_that_ended_by_itself_is_told_with_its_log(home: Home) -> None:
    state.write(home.bundle, GONE)
    (found,) = servers.judge(servers.gather(home.bundle, docker_works=False, containers=()))
    assert (found.code, found.remedy) == (
        "engine.ended",
        "servekit doctor --log /x/server.log; servekit up starts it again",
    )


@pytest.mark.parametrize(
    ("docker_works", "containers", "expected"),
    [(True, ["6b1f2c012345"], []), (True, [], ["ended"]), (False, [], [])],
    ids=["runs", "gone", "nobody can say"],
)
def test_a_container_runs_when_the_engine_says_so(
    home: Home, docker_works: bool, containers: list[str], expected: list[str]
) -> None:
    state.write(home.bundle, IN_DOCKER)
    facts = servers.gather(home.bundle, docker_works=docker_works, containers=containers)
    assert codes(facts) == expected
    assert (facts.running is not None) is bool(containers)


def test_a_folder_that_is_no_bundle_s_is_left_alone(tmp_path: Path) -> None:
    from servekit.paths import Bundle

    assert servers.gather(Bundle(tmp_path), docker_works=False, containers=()).orphans == ()
