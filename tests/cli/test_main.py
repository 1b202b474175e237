"""What every command has in common: exit statuses, errors as lines, hints that can be pasted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def servekit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "servekit", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_printed() -> None:
    assert servekit("--version").stdout.startswith("servekit, version ")


@pytest.mark.parametrize("arguments", [("--help",), ("predict", "--help"), ("--version",)])
def test_help_is_no_error(arguments: tuple[str, ...]) -> None:
    assert servekit(*arguments).returncode == 0


def test_an_unknown_command_is_wrong_usage() -> None:
    result = servekit("prdict")
    assert result.returncode == 2
    assert "No such command 'prdict'" in result.stderr
    assert not result.stdout


def test_an_error_is_one_line_and_its_hint_names_the_command_as_it_was_typed() -> None:
    port_that_nobody_has = "http://127.0.0.1:9"
    result = servekit("status", "--url", port_that_nobody_has, SERVEKIT_COMMAND="./scripts/servekit")
    assert result.returncode == 1
    first, hint = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert hint.startswith("hint: ")
    assert " ./scripts/servekit up" in hint
