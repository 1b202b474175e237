"""No plan ever drops the version that a label points to, lets the gateway give out a label that does not answer,
freezes other models, or hangs: on a model of TF Serving and of the gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from servekit.config.folders import served_versions
from servekit.config.models import Latest, Model, Specific, VersionPolicy
from servekit.gateway.splits import Split
from servekit.rollout.plan import Change, Refused, Reroute, Step, after, fallback, plan
from servekit.rollout.proof import Seen
from tests.rollout.model_of_tf_serving import GatewayModel, ModelServer, Servable

VERSIONS = range(1, 6)
LABELS = ("stable", "canary", "next")
NAME, OTHER = "vit", "other"
OTHER_MODEL = Model(versions=Specific(specific=(1,)), labels={"stable": 1})
PATIENCE = 80


@st.composite
def models(draw: st.DrawFn, published: frozenset[int]) -> Model:
    """An entry that `servekit render` would accept."""
    some = st.lists(st.sampled_from(sorted(published)), min_size=1, unique=True)
    policy: VersionPolicy = draw(
        st.one_of(
            st.builds(lambda versions: Specific(specific=tuple(versions)), some),
            st.builds(lambda number: Latest(latest=number), st.integers(1, 3)),
            st.just("all"),
        )
    )
    served = served_versions(Model(versions=policy), set(published))
    labels = draw(st.dictionaries(st.sampled_from(LABELS), st.sampled_from(served)))
    return Model(versions=policy, labels=labels)


@st.composite
def edits_by_hand(draw: st.DrawFn, entry: Model, published: frozenset[int], loadable: frozenset[int]) -> Model:
    """What nobody renders: one version for another in one edit, preferably a broken one, labels left where they are."""
    version = draw(st.sampled_from(sorted(published - loadable) or sorted(published)))
    return entry.model_copy(update={"versions": Specific(specific=(version,))})


@st.composite
def splits(draw: st.DrawFn, labels: set[str]) -> Split | None:
    """What a route file may say while those labels answer."""
    if "stable" not in labels:
        return None
    share = st.sampled_from((0, 5, 50, 100)) if "canary" in labels else st.just(0)
    return Split(draw(share), draw(st.sampled_from((None, "x-user-id"))), draw(share))


@st.composite
def gateways(draw: st.DrawFn, server: ModelServer) -> GatewayModel:
    """At rest, with routes that the server answers, or with newer ones that it has not shown yet."""
    labels = {label for label in server.labels.get(NAME, {}) if server.answers(NAME, label)}
    of_answering = st.one_of(st.none(), splits(labels))
    serves = draw(of_answering)
    written = draw(of_answering) if draw(st.booleans()) else serves
    return GatewayModel(draw(st.integers(0, 3)), written, serves)


Situation = tuple[ModelServer, dict[str, Model], Model | None, GatewayModel, Split | None]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A server at rest after a start and perhaps a careless edit by hand, and what serving.yaml wants next."""
    published = frozenset(draw(st.sets(st.sampled_from(VERSIONS), min_size=2)))
    broken = draw(st.sampled_from(["none", "one", "some"]))
    loadable = published
    if broken != "none":
        most = 1 if broken == "one" else len(published) - 1
        loadable -= draw(st.sets(st.sampled_from(sorted(published)), min_size=1, max_size=most))
    server = ModelServer(
        {
            NAME: Servable(published, loadable, load_ticks=draw(st.integers(1, 3))),
            OTHER: Servable(frozenset({1}), frozenset({1})),
        }
    )
    config = {OTHER: OTHER_MODEL}
    if draw(st.integers(0, 4)):
        config[NAME] = draw(models(published))
    server.reload(config)
    server.rest()
    by_hand = draw(st.sampled_from(["no", "rendered", "odd"])) if NAME in config else "no"
    if by_hand != "no":
        edit = models(published) if by_hand == "rendered" else edits_by_hand(config[NAME], published, loadable)
        config[NAME] = draw(edit)
        for _ in range(3):
            server.reload(config)
            server.rest(20)
    if draw(st.booleans()):
        server.servables[NAME].loadable = published  # somebody repaired the files
    server.refusals.clear()
    desired = draw(models(published)) if draw(st.integers(0, 7)) else None
    split = draw(splits(set(desired.labels))) if desired and draw(st.integers(0, 7)) else None  # None: gateway off
    return server, config, desired, draw(gateways(server)), split


def change_of(
    server: ModelServer,
    config: dict[str, Model],
    desired: Model | None,
    gateway: GatewayModel | None = None,
    split: Split | None = None,
) -> Change:
    return Change(NAME, desired, config.get(NAME), seen_of(server, gateway), split=split)


def seen_of(server: ModelServer, gateway: GatewayModel | None) -> Seen:
    seen = server.seen(NAME)
    if gateway is None:
        return seen
    return replace(seen, split=gateway.written, behind=gateway.serves != gateway.written)


def run(
    server: ModelServer, config: dict[str, Model], gateway: GatewayModel, step: Step | Reroute, promised: set[str]
) -> bool:
    """Writes and polls until the proofs hold (True) or a version failed (False); promised labels answer throughout, and
    so do those that the gateway gives out."""
    if isinstance(step, Reroute):
        gateway.write(step.split)
    elif step.entry is None:
        config.pop(step.model, None)
    else:
        config[step.model] = step.entry

    def check() -> None:
        for label in promised:
            assert server.answers(NAME, label), f"{label} lost its version in: {step.why}"
        for label in gateway.gives_out():
            assert server.answers(NAME, label), f"the gateway gives out {label}, which is not answered, in: {step.why}"

    for waited in range(PATIENCE):
        server.reload(config)
        if isinstance(step, Reroute):
            server.refusals.clear()  # of the careless edit before, or this file would have been refused with its step
        assert not server.refusals, "a refused file freezes every model"
        check()
        assert server.answers(OTHER, "stable")
        server.tick()
        gateway.tick()
        check()
        seen = seen_of(server, gateway)
        if waited > 8:  # an old error is not the new one's
            if all(proof.holds(seen) for proof in step.proofs):
                return True
            if any(proof.failed(seen) for proof in step.proofs) and not seen.moving:
                return False
    raise AssertionError(f"hangs in: {step.why}; still wanted {list(map(str, step.proofs))}, sees {server.seen(NAME)}")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(situations())
@pytest.mark.slow
def test_every_plan_ends_as_meant_or_goes_back_and_no_label_is_lost_on_the_way(
    situation: Situation,
) -> None:
    server, config, desired, gateway, split = situation
    change = change_of(server, config, desired, gateway, split)
    try:
        steps = plan(change)
    except Refused:
        assume(False)
        raise
    answered = set(server.seen(NAME).labels)
    promised = answered & set(desired.labels if desired else ())
    for step in steps:
        if not run(server, config, gateway, step, promised):
            # Or one that failed before, and nothing else is there to serve while it is taken out and put back.
            cannot_retry = change.served & set(change.seen.failed) and not change.seen.available
            assert server.servables[NAME].loadable != server.servables[NAME].published or cannot_retry
            before = fallback(change)
            if before is None:
                config.pop(NAME)
            else:
                config[NAME] = before
            for _ in range(10):
                server.reload(config)
                server.tick()
                gateway.tick()
            assert not server.refusals
            assert all(server.answers(NAME, label) for label in answered | gateway.gives_out())
            return
        change = after(change, step)
    assert config.get(NAME) == desired
    if desired is not None:
        assert all(server.labels[NAME][label] == version for label, version in desired.labels.items())
        assert all(server.answers(NAME, label) for label in desired.labels)
    assert gateway.serves == split
    assert plan(change_of(server, config, desired, gateway, split)) == ()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(situations())
def test_only_a_server_with_a_version_that_does_not_load_makes_a_plan_refuse(
    situation: Situation,
) -> None:
    server, config, desired, gateway, split = situation
    try:
        plan(change_of(server, config, desired, gateway, split))
    except Refused:
        assert server.seen(NAME).failed
