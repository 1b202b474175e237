"""Which writes lead from what a server has to what serving.yaml wants, transition by transition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from servekit.config.canary import Canary
from servekit.config.models import Latest, Model, Specific
from servekit.gateway.splits import Split
from servekit.rollout.plan import Change, Refused, Reroute, Step, Steps, fallback, order, plan
from servekit.rollout.proof import Available, Ended, Means, Seen, Unassigned

ALL = frozenset({1, 2, 3, 4})


def model(*versions: int, **labels: int) -> Model:
    return Model(versions=Specific(specific=versions), labels=labels)


def seen(available: tuple[int, ...], labels: Mapping[str, int], failed: tuple[int, ...] = ()) -> Seen:
    states = dict.fromkeys(available, "AVAILABLE") | dict.fromkeys(failed, "END")
    return Seen(ALL, states, dict.fromkeys(failed, "cannot be loaded"), dict(labels))


def change(current: Model | None, desired: Model | None, **overrides: Any) -> Change:
    """A server that has taken `current`, all of it loaded."""
    if "seen" not in overrides:
        overrides["seen"] = seen(versions(current), current.labels) if current else Seen(ALL)
    return Change("vit", desired, current, **overrides)


def versions(entry: Model) -> tuple[int, ...]:
    assert isinstance(entry.versions, Specific)
    return entry.versions.specific


def entries(steps: Steps) -> list[tuple[tuple[int, ...], dict[str, int]] | None]:
    return [(versions(step.entry), step.entry.labels) if step.entry else None for step in writes(steps)]


def writes(steps: Steps) -> list[Step]:
    """Of models.config alone."""
    return [step for step in steps if isinstance(step, Step)]


def test_nothing_to_do_when_all_is_as_it_should_be() -> None:
    assert plan(change(model(1, 2, stable=1), model(1, 2, stable=1))) == ()


def test_a_canary_comes_in_before_its_label_moves() -> None:
    steps = plan(change(model(1, 2, stable=1, canary=2), model(1, 2, 3, stable=1, canary=3)))
    assert entries(steps) == [
        ((1, 2, 3), {"stable": 1, "canary": 2}),
        ((1, 2, 3), {"stable": 1, "canary": 3}),
    ]
    assert steps[0].proofs == (Available(1), Available(2), Available(3))
    assert Means("canary", 3) in steps[1].proofs
    assert [step.why for step in steps] == ["load version 3", "move label canary from 2 to 3"]


def test_one_version_for_another_takes_three_writes_and_retires_last() -> None:
    steps = plan(change(model(1, stable=1), model(2, stable=2)))
    assert entries(steps) == [((1, 2), {"stable": 1}), ((1, 2), {"stable": 2}), ((2,), {"stable": 2})]
    assert steps[2].proofs == (Ended(1),)


def test_labels_that_swap_loaded_versions_take_one_write() -> None:
    steps = plan(change(model(1, 2, stable=1, canary=2), model(1, 2, stable=2, canary=1)))
    assert entries(steps) == [((1, 2), {"stable": 2, "canary": 1})]


def test_a_label_that_goes_is_proven_gone() -> None:
    (step,) = writes(plan(change(model(1, 2, stable=1, canary=2), model(1, 2, stable=1))))
    assert step.proofs == (Means("stable", 1), Unassigned("canary"))
    assert step.why == "move label canary away"


def test_versions_that_nobody_names_are_retired_in_one_write() -> None:
    (step,) = writes(plan(change(model(1, 2, 3, stable=3), model(3, stable=3))))
    assert step.proofs == (Ended(1), Ended(2))


def test_a_policy_that_serves_the_same_versions_is_just_written() -> None:
    latest = Model(versions=Latest(latest=2), labels={"stable": 4})
    (step,) = writes(plan(change(model(3, 4, stable=4), latest)))
    assert step.entry == latest


def test_from_latest_to_specific_keeps_the_served_version_until_the_other_is_labelled() -> None:
    current = Model(versions=Latest(latest=1), labels={"stable": 4})
    steps = plan(change(current, model(2, stable=2), seen=seen((4,), {"stable": 4})))
    assert entries(steps) == [((2, 4), {"stable": 4}), ((2, 4), {"stable": 2}), ((2,), {"stable": 2})]


def test_a_new_model_gets_its_labels_when_its_versions_are_there() -> None:
    steps = plan(change(None, model(1, 2, stable=1)))
    assert entries(steps) == [((1, 2), {}), ((1, 2), {"stable": 1})]


def test_a_model_that_goes_is_waited_for() -> None:
    (step,) = writes(plan(change(model(1, 2, stable=1), None)))
    assert step.entry is None
    assert step.proofs == (Ended(1), Ended(2))


def test_changed_models_come_first_and_new_ones_last() -> None:
    kept, gone, new = change(model(1), model(2)), change(model(1), None), change(None, model(1))
    assert order([new, gone, kept]) == [kept, gone, new]


def test_a_file_that_the_server_refuses_is_untangled() -> None:
    """models.config has version 3 and its label in one edit: TF Serving refuses it for ever."""
    frozen = seen((1, 2), {"stable": 1, "canary": 2})
    wanted = model(1, 2, 3, stable=1, canary=3)
    steps = plan(change(wanted, wanted, seen=frozen))
    assert entries(steps) == [
        ((1, 2, 3), {"stable": 1, "canary": 2}),
        ((1, 2, 3), {"stable": 1, "canary": 3}),
    ]


def test_a_version_that_did_not_load_is_taken_out_and_put_back_to_be_tried_again() -> None:
    broken = seen((1,), {"stable": 1}, failed=(2,))
    steps = plan(change(model(1, 2, stable=1), model(1, 2, stable=1), seen=broken))
    assert entries(steps) == [((1,), {"stable": 1}), ((1, 2), {"stable": 1})]
    assert steps[0].proofs == ()


def test_a_version_that_still_loads_is_waited_for_without_another_write() -> None:
    loading = Seen(ALL, {1: "AVAILABLE", 2: "LOADING"}, {}, {"stable": 1})
    (step,) = writes(plan(change(model(1, 2, stable=1), model(1, 2, stable=1), seen=loading)))
    assert step.entry == model(1, 2, stable=1)


def test_with_the_old_version_kept_only_for_want_of_another_nothing_that_needs_it_is_begun() -> None:
    stuck = seen((1,), {"stable": 1}, failed=(2,))
    with pytest.raises(Refused, match="only kept until another one is ready"):
        plan(change(model(2), model(1, 3, stable=1), seen=stuck))
    with pytest.raises(Refused, match="only kept until another one is ready"):
        plan(change(model(2, stable=1), model(3, stable=3), seen=stuck))


def test_with_the_old_version_kept_only_for_want_of_another_a_new_one_replaces_it() -> None:
    stuck = seen((1,), {}, failed=(2,))
    steps = plan(change(model(2), model(3, stable=3), seen=stuck))
    assert entries(steps)[:2] == [((3,), {}), ((3,), {"stable": 3})]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change(model(1), model(1), moved=True), "base_path changes while the model is served"),
        (change(model(1), model(9)), "none of its versions is on disk"),
        (change(None, model(9)), "none of its versions is on disk"),
        (change(model(1), model(1, stable=2)), "label stable points at version 2, which is not served"),
        (change(model(1), model(1), seen=seen((), {}, failed=(1,))), "no other version"),
    ],
    ids=["other folder", "no version", "new without version", "label at nothing", "only version broken"],
)
def test_what_tf_serving_would_not_survive_is_refused_with_a_way_out(wrong: Change, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        plan(wrong)
    assert caught.value.hint


def test_when_a_version_does_not_load_the_way_back_names_only_what_serves() -> None:
    assert fallback(change(model(1, stable=1), model(2, stable=2))) == model(1, stable=1)
    assert fallback(change(None, model(2, stable=2))) is None
    retried = change(model(1, 2, stable=1), model(1, 2, stable=1), seen=seen((1,), {"stable": 1}, failed=(2,)))
    assert fallback(retried) == model(1, stable=1)
    refused = change(model(1, 2, stable=2), model(1, 2, stable=2), seen=seen((1,), {"stable": 1}))
    assert fallback(refused) == model(1, stable=1)


def routes(steps: Steps) -> list[str]:
    """Writes in order: versions and labels of models.config, or what the gateway gives."""
    return [step.why for step in steps]


def split_change(current: Model | None, desired: Model | None, now: Split | None, then: Split | None) -> Change:
    """As `change`, with a gateway that serves `now`."""
    available = versions(current) if current else ()
    shown = replace(seen(available, current.labels if current else {}), split=now)
    return Change("vit", desired, current, shown, split=then)


ONE, BOTH = model(1, stable=1), model(1, 2, stable=1, canary=2)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        (
            split_change(ONE, BOTH, Split(), Split(5)),
            ["load version 2", "move label canary to 2", "give 5 % of unlabelled requests to canary"],
        ),
        (split_change(BOTH, BOTH, Split(5), Split(50)), ["give 50 % of unlabelled requests to canary"]),
        (split_change(BOTH, BOTH, Split(50), Split(50)), []),
        (
            split_change(BOTH, model(2, stable=2), Split(50), Split()),
            [
                "move label stable from 1 to 2",
                "give 0 % of unlabelled requests to canary",
                "move label canary away",
                "retire version 1",
            ],
        ),
        (
            split_change(BOTH, model(1, stable=1), Split(50), Split()),
            ["give 0 % of unlabelled requests to canary", "move label canary away", "retire version 2"],
        ),
        (
            split_change(BOTH, model(1, 3, stable=1, canary=3), Split(50), Split(10)),
            [
                "give 10 % of unlabelled requests to canary",
                "load version 3",
                "give 0 % of unlabelled requests to canary",
                "move label canary from 2 to 3",
                "give 10 % of unlabelled requests to canary",
                "retire version 2",
            ],
        ),
        (
            split_change(BOTH, model(2, 3, stable=2, canary=3), Split(50), Split(10)),
            [
                "load version 3",
                "move label stable from 1 to 2",
                "give 0 % of unlabelled requests to canary",
                "move label canary from 2 to 3",
                "give 10 % of unlabelled requests to canary",
                "retire version 1",
            ],
        ),
        (
            split_change(model(1), BOTH, None, Split(5)),
            [
                "move label stable to 1",
                "give 0 % of unlabelled requests to canary",
                "load version 2",
                "move label canary to 2",
                "give 5 % of unlabelled requests to canary",
            ],
        ),
        (
            split_change(None, ONE, None, Split()),
            ["add the model with version 1", "move label stable to 1", "give 0 % of unlabelled requests to canary"],
        ),
        (split_change(ONE, None, Split(), None), ["give unlabelled requests no label", "remove the model"]),
        (
            split_change(ONE, model(1), Split(), None),
            ["give unlabelled requests no label", "move label stable away"],
        ),
        (split_change(BOTH, BOTH, Split(5), None), ["give unlabelled requests no label"]),
        (
            split_change(BOTH, BOTH, Split(), Split(0, None, 20)),
            ["give 0 % of unlabelled requests and 20 % of the others as copies to canary"],
        ),
    ],
    ids=[
        "start",
        "raise",
        "same",
        "promote",
        "abort",
        "another canary",
        "promote, and another canary",
        "first labels: before the canary loads, which would take every request",
        "new model",
        "model goes",
        "stable goes",
        "gateway off",
        "mirror",
    ],
)
def test_weights_go_down_first_and_up_last(change: Change, steps: list[str]) -> None:
    assert routes(plan(change)) == steps


def test_before_a_label_goes_requests_that_the_gateway_gave_it_arrive() -> None:
    for then in (model(2, stable=2), model(1, stable=1)):
        steps = plan(split_change(BOTH, then, Split(50), Split()))
        assert [step.drain for step in steps if isinstance(step, Reroute)] == [True]


def test_a_gateway_that_shows_other_routes_is_waited_for_before_anything_goes() -> None:
    change = split_change(BOTH, model(1, stable=1), Split(), Split())
    behind = replace(change, seen=replace(change.seen, behind=True))
    assert routes(plan(behind))[0] == "give 0 % of unlabelled requests to canary"
    silent = replace(change, seen=replace(change.seen, silent=True))
    assert routes(plan(silent)) == ["move label canary away", "retire version 2"]
    unlabelled = split_change(model(1), model(1), None, None)
    assert plan(replace(unlabelled, seen=replace(unlabelled.seen, behind=True))) == ()


def test_a_gateway_that_gives_out_a_dead_label_stops_at_once() -> None:
    dead = replace(seen((1,), {"stable": 1}, failed=(2,)), split=Split(50))
    steps = plan(Change("vit", model(1, 3, stable=1, canary=3), BOTH, dead, split=Split(50)))
    assert routes(steps)[0] == "give 0 % of unlabelled requests to canary"


def test_settings_of_the_roll_out_are_nothing_to_the_server() -> None:
    wanted = BOTH.model_copy(update={"canary": Canary(weight=5)})
    assert plan(split_change(BOTH, wanted, Split(5), Split(5))) == ()


def test_versions_in_another_order_are_no_step_of_their_own() -> None:
    backwards = model(2, 1, stable=2, canary=1)
    assert routes(plan(split_change(backwards, model(1, stable=1), Split(50), Split()))) == [
        "move label stable from 2 to 1",
        "give 0 % of unlabelled requests to canary",
        "move label canary away",
        "retire version 2",
    ]
