"""Label moves that a running TF Serving refuses (TF_SERVING's reload order: labels first, then versions)."""

from __future__ import annotations

from pathlib import Path

import pytest

from servekit.config.load import typed
from servekit.config.render import render
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.config.transition import frozen_labels

TEMPLATES = Path(__file__).resolve().parents[2] / "config" / "templates"


def serving(versions: str, labels: str) -> Serving:
    return typed(parse(f"models: {{vit: {{versions: {versions}, labels: {labels}}}}}", "x"))


def frozen(before: Serving, after: Serving) -> list[str]:
    text = render(before, models=Path("/m"), templates=TEMPLATES)["models.config"]
    return [finding.message for finding in frozen_labels(text, after)]


BEFORE = serving("{specific: [1, 2]}", "{stable: 1, canary: 2}")


def test_a_label_that_moves_to_a_version_of_the_same_edit_never_arrives() -> None:
    assert frozen(BEFORE, serving("{specific: [1, 2, 3]}", "{stable: 1, canary: 3}")) == [
        "moves from version 2 to 3 in the edit that adds version 3: a running server refuses the whole file"
    ]


@pytest.mark.parametrize(
    ("versions", "labels"),
    [
        ("{specific: [1, 2]}", "{stable: 2, canary: 2}"),
        ("{specific: [1, 2]}", "{stable: 2, canary: 1}"),
        ("{specific: [1, 2, 3]}", "{stable: 1, canary: 2}"),
        ("{specific: [1, 2, 3]}", "{stable: 1, canary: 2, next: 3}"),
        ("{specific: [1, 2, 3]}", "{stable: 1}"),
    ],
    ids=["to a loaded version", "swapped", "version added", "new label at a new version", "label removed"],
)
def test_other_edits_are_taken(versions: str, labels: str) -> None:
    assert frozen(BEFORE, serving(versions, labels)) == []


def test_a_new_model_has_no_labels_to_move() -> None:
    after = typed(parse("models: {bert: {versions: {specific: [3]}, labels: {stable: 3}}}", "x"))
    assert frozen(BEFORE, after) == []


def test_a_rendered_file_that_somebody_broke_is_replaced_without_a_word() -> None:
    assert list(frozen_labels("model_config_list {", BEFORE)) == []
