"""A check that breaks of itself: nothing follows from it, and people see why."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from servekit.analysis.measure import Analyst, Sources
from servekit.analysis.verdict import Verdict
from servekit.canary.loop import Analyses
from servekit.config.serving import Serving
from servekit.paths import Bundle
from servekit.rollout import history
from servekit.rollout.metrics import Metrics

SERVING = Serving.model_validate(
    {
        "models": {
            "m": {
                "versions": {"specific": [1, 2]},
                "labels": {"stable": 1, "canary": 2},
                "canary": {"auto": True, "weight": 5},
            }
        }
    }
)


def test_it_is_kept_as_no_data_with_its_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: Analyst) -> None:
        raise RuntimeError("a thing that nobody thought of")

    monkeypatch.setattr(Analyst, "check", breaks)
    bundle, now, said = Bundle(tmp_path), [1000.0], list[str]()
    metrics = Metrics()
    analyses = Analyses(bundle, Sources("grpc://127.0.0.1:1"), metrics, said.append, clock=lambda: now[0])
    deadline = time.monotonic() + 30
    while not (progress := history.read(bundle).progress.get("m")) or progress.verdict is None:
        assert time.monotonic() < deadline
        analyses.once(SERVING, {"m"}, {})
        now[0] += 100
        time.sleep(0.01)
    [check] = progress.verdict.checks
    assert (progress.verdict.result, check.result, progress.failed) == ("no data", "no data", 0)
    assert check.text == "the check broke: RuntimeError: a thing that nobody thought of"
    assert "error: m: the check broke: RuntimeError: a thing that nobody thought of" in said
    assert metrics.registry.get_sample_value("servekit_rollout_errors_total") == 1


def test_that_a_check_has_ended_is_news_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def waits(_: Analyst) -> Verdict:
        goes_on.wait(30)
        return Verdict("no data", ())

    monkeypatch.setattr(Analyst, "check", waits)
    now = [1000.0]
    analyses = Analyses(
        Bundle(tmp_path), Sources("grpc://127.0.0.1:1"), Metrics(), lambda _: None, clock=lambda: now[0]
    )
    analyses.once(SERVING, {"m"}, {})
    now[0] += 100
    assert not analyses.once(SERVING, {"m"}, {}), "serving.yaml was not edited"
    assert not analyses.has_news()
    goes_on.set()
    deadline = time.monotonic() + 30
    while not analyses.has_news():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not analyses.has_news()
