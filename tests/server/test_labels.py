from __future__ import annotations

from typing import Any

import pytest

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.labels import next_label_map

AVAILABLE = {("m", 1), ("m", 2)}
CURRENT = {"m": {"stable": 1, "canary": 2}}


def model(**labels: int) -> Any:
    config = messages.ModelConfig(name="m")
    for label, version in labels.items():
        config.version_labels[label] = version
    return config


def moved(*models: Any, allow: bool, current: dict[str, dict[str, int]] = CURRENT) -> Any:
    return next_label_map(models, current, lambda name, v: (name, v) in AVAILABLE, allow_unavailable=allow)


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize(
    "labels",
    [{"stable": 1, "canary": 2}, {"stable": 2, "canary": 1}, {"stable": 2}, {}, {"stable": 1, "next": 2}],
    ids=["as it was", "swapped", "one moved, one removed", "all removed", "new label"],
)
def test_labels_at_available_versions_always_pass(labels: dict[str, int], allow: bool) -> None:
    assert moved(model(**labels), allow=allow) == ({"m": labels} if labels else {})


def test_without_the_flag_no_label_may_point_at_an_unavailable_version() -> None:
    with pytest.raises(StatusError) as refused:
        moved(model(stable=1, next=9), allow=False)
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.message == (
        "Request to assign label to version 9 of model m, which is not currently available for inference"
    )


def test_with_the_flag_a_new_label_may_point_anywhere() -> None:
    assert moved(model(stable=1, next=9), allow=True)["m"] == {"stable": 1, "next": 9}


def test_with_the_flag_a_label_may_stay_at_a_version_that_is_gone() -> None:
    assert moved(model(old=7), allow=True, current={"m": {"old": 7}}) == {"m": {"old": 7}}


def test_without_the_flag_a_label_that_stays_at_a_version_that_is_gone_is_refused() -> None:
    with pytest.raises(StatusError):
        moved(model(old=7), allow=False, current={"m": {"old": 7}})


def test_with_the_flag_a_label_may_still_not_move_to_an_unavailable_version() -> None:
    with pytest.raises(StatusError, match="version 9 of model m"):
        moved(model(canary=9), allow=True)


def test_a_bad_label_of_one_model_stops_all() -> None:
    other = model(canary=1)
    other.name = "n"
    with pytest.raises(StatusError):
        moved(model(stable=2), other, allow=False)
