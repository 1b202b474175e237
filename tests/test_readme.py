"""README is true: its commands are run in a fresh copy of the checkout and answer what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
import pytest

from servekit.cli.main import COMMANDS, root
from tests import plain_http
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
UP, TEST, APPLY, CANARY = "./scripts/up", "./scripts/test", "./scripts/servekit apply", "./scripts/servekit canary "


@dataclass(frozen=True)
class Step:
    """A `$ ` line of a console block and the lines under it."""

    command: str
    answer: str


def steps() -> list[Step]:
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    parts = (part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
    return [Step(command, answer.rstrip()) for command, _, answer in parts]


def masked(text: str) -> str:
    """Without times and the drawing of tables, whose widths follow the times."""
    text = re.sub(r"\b\d+(\.\d+)? (ms|s)\b", r"N \2", text)
    text = re.sub(r"^(│ (?:REST|gRPC) .*│ +)\d+ │$", r"\1N │", text, flags=re.MULTILINE)
    lines = (re.sub(r"\s+", " ", line).rstrip() for line in text.splitlines() if not set(line) & set("┏┡└"))
    return "\n".join(lines).strip()


@dataclass(frozen=True)
class Clone:
    folder: Path
    port: int
    rest_api_port: int

    def run(self, command: str, seconds: float = 200) -> subprocess.CompletedProcess[str]:
        command = command.replace("8500", str(self.port)).replace("8501", str(self.rest_api_port))
        command = command.replace("/tmp/", f"{self.folder}/.servekit/")
        environment = {name: value for name, value in os.environ.items() if name != "SERVEKIT_HOME"}
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**environment, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def shown(self, text: str) -> str:
        return masked(text.replace(str(self.port), "8500").replace(str(self.rest_api_port), "8501"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """What `git clone` of this state would give, with nothing installed."""
    folder = tmp_path_factory.mktemp("clone") / "servekit"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    clone = Clone(folder, free_port(), free_port())
    try:
        yield clone
    finally:
        if (folder / ".venv").exists():
            clone.run("./scripts/down")
        shutil.rmtree(folder, ignore_errors=True)  # 1.7 GB


@pytest.fixture(scope="module")
def up(clone: Clone) -> str:
    command = f"{UP} --engine embedded --detach --port {clone.port} --rest-api-port {clone.rest_api_port}"
    result = clone.run(command, seconds=600)
    assert result.returncode == 0, result.stderr
    return clone.shown(result.stdout)


def test_every_path_in_the_readme_exists() -> None:
    generated = {"config/rendered", "models/mymodel/1", "models/imagenet/1", "export/mymodel.py"}
    linked = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))
    quoted = set(re.findall(r"`((?:\./)?(?:config|export|scripts|docs|tests|models)/[\w./-]*\w)`", README))
    missing = {path for path in linked | quoted if not (ROOT / path).exists()} - generated
    assert linked >= {"docs/configuration.md", "docs/exporting.md", "docs/embedded_server.md"}
    assert not missing


def test_every_command_and_option_in_the_readme_exists() -> None:
    context = click.Context(root)
    for name, arguments in re.findall(r"servekit (\w+)((?: +[^\n`|;]+)?)", README):
        if name not in COMMANDS:
            continue
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group) and arguments.split():
            command = command.get_command(context, arguments.split()[0].partition("\\")[0])
            assert command is not None, f"servekit {name}{arguments}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = set(re.findall(r"(?<!\S)\[?(--[a-z0-9-]+)", arguments)) - {"--flag"}
        assert name == "serve" or used <= known | {"--help"}, f"servekit {name}: {used - known}"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_up_goes_from_a_clone_to_four_answers(up: str) -> None:
    shown = next(step for step in steps() if step.command == UP)
    table = masked(shown.answer[shown.answer.index("┃ protocol") :])
    assert table in up


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [step for step in steps() if step.command not in {UP, TEST, APPLY} and not step.command.startswith(CANARY)],
    ids=lambda step: step.command[:60],
)
def test_a_command_answers_what_the_readme_shows(step: Step, clone: Clone, up: str) -> None:
    result = clone.run(step.command)
    assert result.returncode == 0, result.stderr
    if step.answer:
        assert clone.shown(result.stdout) == masked(step.answer)


@pytest.mark.slow
def test_a_wrong_label_is_refused_as_the_readme_shows(clone: Clone, up: str) -> None:
    config = clone.folder / "config" / "serving.yaml"
    right = config.read_text()
    config.write_text(right.replace("canary: 2", "canary: 3"))
    try:
        step = next(step for step in steps() if step.answer.startswith("error:"))
        result = clone.run(step.command)
        assert result.returncode == 2
        assert masked(result.stderr) == masked(step.answer)
    finally:
        config.write_text(right)


@pytest.mark.slow
def test_stable_moves_to_version_2_as_the_readme_says(clone: Clone, up: str) -> None:
    config = clone.folder / "config" / "serving.yaml"
    assert "stable: 1" in README
    config.write_text(config.read_text().replace("stable: 1", "stable: 2"))
    step = next(step for step in steps() if step.command == APPLY)
    result = clone.run(APPLY)
    assert result.returncode == 0, result.stderr
    assert masked(result.stderr) == masked(step.answer)
    url = f"http://127.0.0.1:{clone.rest_api_port}/v1/models/imagenet/labels/stable/metadata"
    assert plain_http.get(url).json()["model_spec"]["version"] == "2"


@pytest.mark.slow
def test_a_canary_goes_as_the_readme_says(clone: Clone, up: str) -> None:
    shutil.copy(ROOT / "config" / "serving.yaml", clone.folder / "config" / "serving.yaml")
    assert clone.run(APPLY).returncode == 0
    shown = [step for step in steps() if step.command.startswith(CANARY)]
    assert [step.command.split()[2] for step in shown] == ["start", "status", "promote"]
    for step in shown:
        before_the_rest = masked(step.answer.partition("\n  ...")[0])
        deadline = time.monotonic() + 90
        while True:  # an edit is brought about in a moment; status then says so
            result = clone.run(step.command)
            assert result.returncode in ({0, 1} if "status" in step.command else {0}), result.stderr
            if "status" not in step.command or masked(result.stdout).startswith(before_the_rest):
                break
            assert time.monotonic() < deadline, result.stdout
        assert masked(result.stdout).startswith(before_the_rest)
    assert clone.run(APPLY).returncode == 0
    answer = plain_http.get(f"http://127.0.0.1:{clone.rest_api_port}/v1/models/imagenet/labels/stable/metadata")
    assert answer.json()["model_spec"]["version"] == "2"
    versions = plain_http.get(f"http://127.0.0.1:{clone.rest_api_port}/v1/models/imagenet").json()
    available = [one["version"] for one in versions["model_version_status"] if one["state"] == "AVAILABLE"]
    assert available == ["2"]


@pytest.mark.slow
def test_a_second_up_exports_nothing_and_down_leaves_no_process(clone: Clone, up: str) -> None:
    assert clone.run("./scripts/down").returncode == 0
    again = clone.run(
        f"{UP} --engine embedded --detach --port {clone.port} --rest-api-port {clone.rest_api_port}", seconds=200
    )
    assert again.returncode == 0, again.stderr
    assert "export" not in again.stderr
    assert clone.run("./scripts/down").returncode == 0
    for _ in range(50):
        left = [one for one in psutil.process_iter(["cmdline"]) if str(clone.folder) in str(one.info["cmdline"])]
        if not left:
            break
        time.sleep(0.1)
    assert not left
