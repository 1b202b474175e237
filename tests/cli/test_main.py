"""What every command has in common: exit statuses, errors as lines, hints that can be pasted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from servekit.cli.output import print_json


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


def test_a_hint_can_be_pasted_when_the_folder_has_spaces() -> None:
    result = servekit("status", "--url", "http://127.0.0.1:9", SERVEKIT_COMMAND="/my models/scripts/servekit")
    assert "'/my models/scripts/servekit' up" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a file that is always full")
@pytest.mark.parametrize(
    "arguments", [("render", "--schema"), ("export", "--list"), ("export", "--list", "--json")], ids=" ".join
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "servekit", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr == "error: No space left on device\n"


def test_json_is_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    home = tmp_path / "Modèles"
    result = servekit("render", "--json", SERVEKIT_HOME=str(home), PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert result.returncode == 2
    assert json.loads(result.stdout)["problems"][0]["file"].startswith(str(home))


def test_a_file_name_that_is_not_utf_8_does_not_break_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({"file": "b\udcffd.png"})
    assert json.loads(capfdbinary.readouterr().out) == {"file": "b\udcffd.png"}


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    recipe = 'from servekit.export.recipe import Recipe\nRECIPE = Recipe("Gänse", "x", "y")\nbuild = print\n'
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "geese.py").write_text(recipe, encoding="utf-8")
    result = servekit("export", "--list", SERVEKIT_HOME=str(tmp_path), PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0, result.stderr
    assert "G\\xe4nse" in result.stdout


@pytest.mark.parametrize("seconds", ["0", "-1"])
def test_a_timeout_is_more_than_nothing(seconds: str) -> None:
    result = servekit("status", "--timeout", seconds)
    assert result.returncode == 2
    assert "--timeout" in result.stderr
