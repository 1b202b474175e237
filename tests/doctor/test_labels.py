"""What a server says, held against what it was told; the answers are those of the client."""

from __future__ import annotations

import pytest

from servekit.client import ModelStatus, VersionStatus
from servekit.doctor import labels
from servekit.doctor.finding import Finding, Severity
from servekit.doctor.labels import LabelFacts
from servekit.engine.health import Configured, Observed, judged
from servekit.errors import Code, StatusError

REFUSED = StatusError(Code.NOT_FOUND, "Servable not found for request: Specific(a, 3)")


def look(
    states: dict[int, str],
    *,
    labels_now: dict[str, int | StatusError],
    wanted: dict[str, int],
    versions: tuple[int, ...],
) -> list[Finding]:
    """`states`: `END: message` is one that failed."""
    statuses = [
        VersionStatus(
            version, name.partition(":")[0], Code.DATA_LOSS if ": " in name else Code.OK, name.partition(": ")[2]
        )
        for version, name in sorted(states.items(), reverse=True)
    ]
    observed = Observed(ModelStatus(tuple(statuses)), labels_now)
    model = judged(Configured("a", versions, wanted), observed)
    return list(labels.judge(LabelFacts("grpc://127.0.0.1:8500", (model,))))


def test_all_as_configured_is_no_finding() -> None:
    states = {1: "AVAILABLE", 2: "AVAILABLE"}
    assert look(states, labels_now={"stable": 1}, wanted={"stable": 1}, versions=(1, 2)) == []


@pytest.mark.parametrize("state", ["LOADING", "START", "END: Can't parse saved_model.pb"])
def test_a_label_at_a_version_that_is_not_available_cannot_move(state: str) -> None:
    found = look({2: "AVAILABLE", 3: state}, labels_now={"canary": 2}, wanted={"canary": 3}, versions=(2, 3))
    stuck = next(one for one in found if one.code == "labels.cannot-move")
    assert stuck.severity is Severity.ERROR
    assert "means version 2, should be 3, which is not AVAILABLE (available: 2)" in stuck.message
    assert stuck.remedy is not None
    assert "put canary: 2 into serving.yaml" in stuck.remedy


def test_a_label_at_a_version_that_the_server_never_heard_of_cannot_move() -> None:
    found = look({2: "AVAILABLE"}, labels_now={"canary": 2}, wanted={"canary": 3}, versions=(2, 3))
    assert {one.code for one in found} == {"labels.version-unknown", "labels.cannot-move"}


def test_a_label_that_dangles_is_refused_and_named() -> None:
    found = look({2: "AVAILABLE", 3: "END"}, labels_now={"canary": REFUSED}, wanted={"canary": 3}, versions=(2,))
    (dangling,) = found
    assert dangling.code == "labels.cannot-move"
    assert "is refused (Servable not found" in dangling.message
    assert dangling.remedy is not None
    assert "put canary at 2 into" in dangling.remedy


def test_a_label_that_could_move_and_does_not_means_that_the_file_is_not_read() -> None:
    states = {1: "AVAILABLE", 2: "AVAILABLE"}
    (found,) = look(states, labels_now={"stable": 1}, wanted={"stable": 2}, versions=(1, 2))
    assert (found.code, found.severity) == ("labels.not-moved", Severity.ERROR)


def test_a_version_that_failed_stays_failed() -> None:
    found = look({1: "AVAILABLE", 2: "END: cut off"}, labels_now={}, wanted={}, versions=(1, 2))
    (failed,) = found
    assert failed.code == "labels.version-failed"
    assert failed.remedy is not None
    assert "as version 3" in failed.remedy
    assert "take 2 out of serving.yaml" in failed.remedy
    assert "starts anew with it in models.config ends" in failed.message


def test_loading_is_a_note_and_nothing_available_an_error() -> None:
    found = look({1: "LOADING"}, labels_now={}, wanted={}, versions=(1,))
    assert [(one.code, one.severity) for one in found] == [
        ("labels.nothing-available", Severity.ERROR),
        ("labels.version-loading", Severity.NOTE),
    ]


def test_versions_that_ended_in_order_are_no_finding_under_any_policy() -> None:
    assert look({1: "END", 2: "AVAILABLE"}, labels_now={}, wanted={}, versions=()) == []


def test_a_model_that_the_server_does_not_have() -> None:
    observed = Observed(StatusError(Code.NOT_FOUND, "Could not find any versions of model a"), {})
    facts = LabelFacts("url", (judged(Configured("a", (1,), {}), observed),))
    (found,) = labels.judge(facts)
    assert (found.code, found.place) == ("labels.model-unknown", "a")


def test_a_server_that_does_not_answer() -> None:
    (found,) = labels.judge(LabelFacts("grpc://127.0.0.1:1", no_answer="connection refused"))
    assert (found.code, found.place) == ("labels.no-answer", "grpc://127.0.0.1:1")


def test_no_server_is_no_finding() -> None:
    assert list(labels.judge(LabelFacts(None))) == []
