"""docs/troubleshooting.md and docs/deploying.md speak of what is there."""

from __future__ import annotations

import re

import click
import pytest

from servekit.cli.main import COMMANDS, root
from servekit.doctor.checks import CHECKS
from servekit.doctor.known_lines import KNOWN_LINES
from tests.conftest import ROOT

TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
DEPLOYING = (ROOT / "docs" / "deploying.md").read_text()
CODE = re.compile(rf"\b(?:{'|'.join(CHECKS)})\.[a-z0-9]+(?:-[a-z0-9]+)*\b")


def codes_of_the_program() -> set[str]:
    sources = "\n".join(path.read_text() for path in (ROOT / "servekit" / "doctor").glob("*.py"))
    literal = {found.strip('"') for found in re.findall(rf'"{CODE.pattern}"', sources)}
    return (literal - {"compose.yaml"}) | {known.code for known in KNOWN_LINES}


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    documented = set(re.findall(rf"`({CODE.pattern})`", TROUBLESHOOTING))
    assert documented <= codes_of_the_program()
    assert codes_of_the_program() - documented <= {known.code for known in KNOWN_LINES}


@pytest.mark.parametrize("text", [TROUBLESHOOTING, DEPLOYING], ids=["troubleshooting", "deploying"])
def test_commands_and_options_exist(text: str) -> None:
    context = click.Context(root)
    used = re.findall(r"servekit (\w+)((?: +--?[a-z-]+(?:[ =][\w.,/-]+)?)*)", text)
    assert used
    for name, options in used:
        if name not in COMMANDS:
            continue
        command = root.get_command(context, name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known | {"--help"}, f"servekit {name}{options}"


@pytest.mark.parametrize("text", [TROUBLESHOOTING, DEPLOYING], ids=["troubleshooting", "deploying"])
def test_checks_named_in_only_exist(text: str) -> None:
    for names in re.findall(r"--only ([a-z,]+)", text):
        assert set(names.split(",")) <= set(CHECKS)


@pytest.mark.parametrize("text", [TROUBLESHOOTING, DEPLOYING], ids=["troubleshooting", "deploying"])
def test_links_and_their_anchors_exist(text: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        page = (ROOT / "docs" / path).read_text() if path else text
        headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target


def test_variables_of_compose_exist() -> None:
    example = (ROOT / ".env.example").read_text()
    for name in set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)+)=", TROUBLESHOOTING + DEPLOYING)):
        if name.startswith(("TF_", "PIP_")):
            continue
        assert f"# {name}=" in example, name
