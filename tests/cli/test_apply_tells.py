"""What `servekit apply` and `up` say of the controller's events."""

from __future__ import annotations

import pytest

from servekit.cli.apply import tell
from servekit.rollout.history import Event


@pytest.mark.parametrize(
    ("step", "result", "reason", "said"),
    [
        ("move label stable from 1 to 2", "started", "", "  m: move label stable from 1 to 2 ..."),
        ("move label stable from 1 to 2", "done", "", "  m: move label stable from 1 to 2: 0.5 s"),
        ("retire version 1", "superseded", "serving.yaml was edited", "  m: retire version 1: serving.yaml was edited"),
        ("canary promote", "promoted", "", "  m: canary promote: promoted"),
        (
            "roll back version 2",
            "rolled back",
            "3 checks failed",
            "  m: roll back version 2: rolled back: 3 checks failed",
        ),
        ("add version 2", "failed", "it does not load", "error: m: add version 2: failed: it does not load"),
        ("plan", "refused", "no such version", "error: m: plan: refused: no such version"),
    ],
)
def test_only_what_went_wrong_is_an_error(
    capsys: pytest.CaptureFixture[str], step: str, result: str, reason: str, said: str
) -> None:
    tell(Event("2026-11-22T12:00:00+00:00", "m", step, result, reason, 0.5))
    assert capsys.readouterr().err == said + "\n"
