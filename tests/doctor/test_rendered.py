"""config/rendered against serving.yaml, and against what a container sees."""

from __future__ import annotations

import dataclasses
import os
from datetime import datetime, timezone

import pytest

from servekit.config.bundle import render_bundle
from servekit.config.load import load
from servekit.doctor import rendered
from servekit.doctor.finding import Finding
from servekit.doctor.rendered import RenderedFacts
from tests.doctor.homes import Home

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def look(home: Home, started: datetime | None = None, *, in_containers: bool = False) -> list[Finding]:
    return list(
        rendered.judge(
            rendered.gather(home.bundle, load(home.bundle.serving_yaml), in_containers=in_containers, started=started)
        )
    )


def codes(findings: list[Finding]) -> list[str]:
    return [found.code.removeprefix("rendered.") for found in findings]


def test_files_as_serving_yaml_means_are_no_finding(home: Home) -> None:
    render_bundle(home.bundle)
    assert look(home) == []


def test_nothing_rendered_yet_is_a_note(home: Home) -> None:
    assert codes(look(home)) == ["not-yet"]


def test_an_edit_that_was_not_rendered(home: Home) -> None:
    render_bundle(home.bundle)
    home.configure(home.bundle.serving_yaml.read_text().replace("canary: 2", "canary: 1"))
    (found,) = look(home)
    assert found.code == "rendered.stale"
    assert "models.config" in found.message
    render_bundle(home.bundle)
    assert look(home) == []


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_a_file_edited_or_deleted_by_hand(home: Home, damage: str) -> None:
    render_bundle(home.bundle)
    path = home.bundle.rendered_container / "batching.config"
    path.write_text("# mine\n") if damage == "edited" else path.unlink()
    assert codes(look(home, in_containers=True)) == ["stale"]
    assert look(home) == []  # nobody reads it there


def test_a_template_that_cannot_be_rendered(home: Home) -> None:
    render_bundle(home.bundle)
    (home.bundle.templates / "models.config.j2").write_text("{{ nonsense }}")
    (found,) = look(home)
    assert found.code == "rendered.impossible"
    assert "models.config.j2" in found.message


def test_a_file_that_only_a_start_reads_and_that_changed_since(home: Home) -> None:
    render_bundle(home.bundle)
    for path in home.bundle.rendered.rglob("*"):
        os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    assert look(home, NOON.replace(hour=13)) == []
    (found,) = look(home, NOON.replace(hour=11))
    assert found.code == "rendered.restart-needed"
    assert "batching.config" in found.message


INSIDE = RenderedFacts(container="x-tfserving-1", inside={"models.config": ("1f", "1f")})


@pytest.mark.parametrize(
    ("inside", "code"), [(("1f", "1f"), None), (("1f", "2e"), "container-sees-old"), (("1f", None), "not-in-container")]
)
def test_what_the_container_sees(inside: tuple[str, str | None], code: str | None) -> None:
    facts = dataclasses.replace(INSIDE, inside={"models.config": inside})
    assert codes(list(rendered.judge(facts))) == ([code] if code else [])
