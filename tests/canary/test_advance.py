"""What follows from a verdict, case by case."""

from __future__ import annotations

import pytest

from servekit.analysis.verdict import Check, Result, Verdict
from servekit.canary.advance import Action, Hold, Progress, Promote, RollBack, SetWeight, advance, read_progress
from servekit.config.canary import Analysis, Canary

ANALYSIS = Analysis(interval="30s", threshold=2, step_weight=20, max_weight=50)


def verdict(result: Result) -> Verdict:
    return Verdict(result, (Check("success_rate", result, 97.5, "≥ 99", "200 requests"),))


def canary(weight: int = 10, *, auto: bool = True, paused: bool = False) -> Canary:
    return Canary(weight=weight, auto=auto, paused=paused, analysis=ANALYSIS)


@pytest.mark.parametrize(
    ("given", "failed_before", "result", "action"),
    [
        (canary(10), 0, "pass", SetWeight(30, "passed: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(40), 0, "pass", SetWeight(50, "passed: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(50), 0, "pass", Promote("passed at 50 %: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(80), 1, "pass", Promote("passed at 80 %: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(10), 0, "no data", Hold("no data: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(50), 1, "no data", Hold("no data: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(0), 0, "no data", SetWeight(20, "first requests")),
        (canary(0), 0, "pass", SetWeight(20, "first requests")),
        (canary(0), 0, "fail", Hold("1 of 2 failed checks: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(10), 0, "fail", Hold("1 of 2 failed checks: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(10), 1, "fail", RollBack("2 of 2 failed checks: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(50), 5, "fail", RollBack("6 of 2 failed checks: success rate 97.5 % (≥ 99): 200 requests")),
        (canary(10, paused=True), 1, "fail", Hold("paused")),
        (canary(50, paused=True), 0, "pass", Hold("paused")),
        (canary(50, auto=False), 9, "fail", Hold("the analysis is off (auto: false)")),
    ],
)
def test_a_verdict_moves_the_weight_promotes_or_rolls_back(
    given: Canary, failed_before: int, result: Result, action: Action
) -> None:
    said = verdict(result)
    progress = Progress(1, 2, 0.0, failed_before).after(said, 30.0)
    assert advance(given, progress, said) == action


def test_a_check_is_due_when_the_interval_is_over_or_the_clock_was_set_back() -> None:
    progress = Progress(1, 2, checked_at=1000.0)
    assert [progress.is_due(canary(), now) for now in (1000, 1029.9, 1030, 900)] == [False, False, True, True]


def test_progress_outlives_a_controller_and_belongs_to_one_pair_of_versions() -> None:
    progress = Progress(1, 2, 1000.0).after(verdict("fail"), 1030.5)
    assert read_progress(progress.document()) == progress
    assert progress.is_about(1, 2)
    assert not progress.is_about(1, 3)
    assert not progress.is_about(1, None)


@pytest.mark.parametrize("name", ["agreement", "gates.review", "analysis"])
def test_a_canary_gets_no_first_requests_while_a_check_that_needs_none_has_no_data(name: str) -> None:
    waiting = Check("success_rate", "no data", None, "", "no requests")
    unknown = Verdict("no data", (waiting, Check(name, "no data", None, "", "nobody knows")))
    assert isinstance(advance(canary(0), Progress(1, 2, 0.0), unknown), Hold)
    known = Verdict("no data", (waiting, Check("queries.mine", "no data", None, "", "no requests")))
    assert advance(canary(0), Progress(1, 2, 0.0), known) == SetWeight(20, "first requests")
