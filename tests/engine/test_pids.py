"""Whose processor time `servekit bench` tells."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from servekit.engine.pids import pids
from servekit.engine.state import EngineState, GatewayState

RUNNING = EngineState("embedded", 7, "1", "127.0.0.1", 1, 2, "", "", "")
DOCKER = """#!/bin/sh
labels='{"com.docker.compose.project": "p"}'
case "$*" in
  "container inspect server") echo '[{"State": {"Pid": 41}, "Config": {"Labels": '"$labels"'}}]' ;;
  "container inspect abc") echo '[{"State": {"Pid": 42}, "Config": {}}]' ;;
  "ps --quiet --filter label=com.docker.compose.project=p"*gateway) echo abc ;;
  *) exit 1 ;;
esac
"""


def test_processes_are_known_from_the_state() -> None:
    assert pids(RUNNING) == {"server": 7}
    assert pids(replace(RUNNING, gateway=GatewayState(8, "1", 3, ""))) == {"server": 7, "gateway": 8}


def test_containers_are_asked_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that answers as `docker` does, for those two containers."""
    program = tmp_path / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert pids(replace(RUNNING, container="server")) == {"server": 41, "gateway": 42}
    assert pids(replace(RUNNING, container="gone")) == {}
