"""serving.yaml with one thing changed, and every other character as it was."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.canary import edit
from servekit.canary.edit import CannotEdit, Edit, Start
from servekit.canary.rewrite import remove, set_value
from servekit.config.load import typed
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.errors import ConfigError
from tests.conftest import ROOT

SHIPPED = (ROOT / "config" / "serving.yaml").read_text()


def serving(text: str) -> Serving:
    return typed(parse(text, "serving.yaml"))


def edited(text: str, done: Edit, name: str = "imagenet") -> str:
    return edit.rewritten(text, "serving.yaml", name, serving(text), done.model)


def diff(before: str, after: str) -> list[str]:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


def started(text: str, asked: Start, published: set[int] | None = None, name: str = "imagenet") -> Edit:
    return edit.start(name, serving(text).models[name], asked, published or {1, 2, 3})


PLAIN = """\
# what we serve
models:
  imagenet:   # the classifier
    versions: {specific: [1]}   # one for now
    labels: {stable: 1}
    # the next one comes in autumn

# and how
server: {poll_seconds: 2}
"""


def test_a_start_touches_versions_labels_and_the_section_and_nothing_else() -> None:
    after = edited(PLAIN, started(PLAIN, Start(2, 10, auto=True, interval="10s")))
    assert diff(PLAIN, after) == [
        "-    versions: {specific: [1]}   # one for now",
        "-    labels: {stable: 1}",
        "+    versions: {specific: [1, 2]}   # one for now",
        "+    labels: {stable: 1, canary: 2}",
        "+    canary:",
        "+      weight: 10",
        "+      auto: true",
        "+      analysis:",
        "+        interval: 10s",
    ]


def test_promotion_and_abort_leave_the_settings_for_the_next_canary() -> None:
    begun = edited(PLAIN, started(PLAIN, Start(2, sticky="x-user-id", interval="10s")))
    model = serving(begun).models["imagenet"]
    promoted = edited(begun, edit.promote("imagenet", model))
    assert diff(PLAIN, promoted) == [
        "-    versions: {specific: [1]}   # one for now",
        "-    labels: {stable: 1}",
        "+    versions: {specific: [2]}   # one for now",
        "+    labels: {stable: 2}",
        "+    canary:",
        "+      sticky: x-user-id",
        "+      analysis:",
        "+        interval: 10s",
    ]
    aborted = edited(begun, edit.abort("imagenet", model))
    assert diff(PLAIN, aborted) == [
        "+    canary:",
        "+      sticky: x-user-id",
        "+      analysis:",
        "+        interval: 10s",
    ]
    kept = edit.promote("imagenet", model, keep_old=True)
    assert str(kept.model.versions) == "specific [1, 2]"


def test_without_settings_of_ones_own_a_promoted_canary_leaves_no_section() -> None:
    begun = edited(PLAIN, started(PLAIN, Start(2)))
    assert edited(begun, edit.abort("imagenet", serving(begun).models["imagenet"])) == PLAIN


def test_the_shipped_file_keeps_its_comments() -> None:
    after = edited(SHIPPED, started(SHIPPED, Start(2, 5)))
    assert [line for line in diff(SHIPPED, after) if line[0] == "-"] == []
    model = serving(after).models["imagenet"]
    aborted = edited(after, edit.abort("imagenet", model))
    assert [line.split(":")[0] for line in diff(SHIPPED, aborted)] == [
        "-    versions",
        "+    versions",
        "-      canary",
    ]
    weight = edited(after, edit.weight("imagenet", model, 25))
    assert [line.strip() for line in diff(after, weight)] == ["-      weight: 5", "+      weight: 25"]


def test_pause_and_resume_are_one_line() -> None:
    begun = edited(PLAIN, started(PLAIN, Start(2, auto=True)))
    paused = edited(begun, edit.pause("imagenet", serving(begun).models["imagenet"]))
    assert diff(begun, paused) == ["+      paused: true"]
    assert edited(paused, edit.resume("imagenet", serving(paused).models["imagenet"])) == begun


def test_a_weight_beyond_the_highest_is_told_to_be_followed_by_promotion() -> None:
    begun = edited(PLAIN, started(PLAIN, Start(2, auto=True)))
    model = serving(begun).models["imagenet"]
    assert "max_weight is 50: the next check that passes promotes it" in edit.weight("imagenet", model, 80).notes
    assert len(edit.weight("imagenet", model, 49).notes) == 1


STYLES = {
    "block": """\
models:
    imagenet:
        labels:
            stable: 1
            # a word about it
        versions:
            specific:
                - 1     # the first
    other:
        versions: all
""",
    "one line": "models: {imagenet: {versions: {specific: [1]}, labels: {stable: 1}}, other: {versions: all}}",
    "quoted, over several lines": """\
"models":
  "imagenet": {
    "versions": {"specific": [1]},   # first
    "labels": {
      "stable": 1
    }
  }
  other: {versions: all}
""",
    "section without content": "models:\n  imagenet:\n    versions: {specific: [1]}\n    labels: {stable: 1}\n    "
    "canary: {}\n  other: {versions: all}\n",
    "windows": "models:\r\n  imagenet:\r\n    versions: {specific: [1]}\r\n    labels: {stable: 1}\r\n  other:\r\n"
    "    versions: all\r\n",
    "no newline at the end": "models:\n  other: {versions: all}\n  imagenet:\n    versions: {specific: [1]}\n"
    "    labels: {stable: 1}",
    "merged": "models:\n  other: &shared\n    versions: {specific: [1]}\n    labels: {stable: 1}\n  imagenet:\n"
    "    <<: *shared\n    versions: {specific: [1]}\n",
}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_yaml_takes_a_whole_roll_out(style: str) -> None:
    text = STYLES[style]
    other = serving(text).models["other"]
    text = edited(text, started(text, Start(2, 5, auto=True)))
    text = edited(text, edit.weight("imagenet", serving(text).models["imagenet"], 50))
    text = edited(text, edit.pause("imagenet", serving(text).models["imagenet"]))
    text = edited(text, edit.resume("imagenet", serving(text).models["imagenet"]))
    model = serving(text).models["imagenet"]
    assert (model.labels, model.canary and model.canary.weight) == ({"stable": 1, "canary": 2}, 50)
    promoted = serving(edited(text, edit.promote("imagenet", model))).models["imagenet"]
    assert (str(promoted.versions), promoted.labels) == ("specific [2]", {"stable": 2})
    assert serving(text).models["other"] == other
    for comment in ("# a word about it", "# the first", "# first"):
        assert (comment in text) == (comment in STYLES[style])
    assert ("\r\n" in text) == ("\r\n" in STYLES[style])
    assert "\n" not in text.replace("\r\n", "") or "\r\n" not in STYLES[style]


def test_what_two_models_share_is_not_changed_for_both() -> None:
    text = (
        "models:\n  other:\n    versions: {specific: [1, 2]}\n    labels: &shared {stable: 1}\n"
        "  imagenet:\n    versions: {specific: [1, 2]}\n    labels: *shared\n"
    )
    with pytest.raises(ConfigError, match=r"serving.yaml:5: models.imagenet: .* \(an anchor or a merge key\)"):
        edited(text, started(text, Start(2)))


def test_policies_become_specific_with_a_word_about_it() -> None:
    for versions in ("all", "{latest: 2}"):
        text = f"models: {{imagenet: {{versions: {versions}, labels: {{stable: 1}}}}}}\n"
        done = started(text, Start(3), {1, 3})
        assert str(done.model.versions) == "specific [1, 3]"
        assert "becomes specific [1, 3]" in done.notes[0]
        assert serving(edited(text, done)).models["imagenet"] == done.model


def test_without_labels_stable_is_what_is_served_now() -> None:
    text = "models:\n  imagenet:\n    versions: {specific: [1]}\n"
    done = started(text, Start(2))
    assert done.model.labels == {"stable": 1, "canary": 2}
    assert done.notes == ("label stable means version 1 from now on: what unlabelled requests got so far",)
    latest = "models: {imagenet: {}}\n"
    with pytest.raises(CannotEdit, match="version 2 is what unlabelled requests get already"):
        started(latest, Start(2), {1, 2})
    assert started(latest, Start(2, stable=1), {1, 2}).model.labels == {"stable": 1, "canary": 2}


RUNNING = "models: {imagenet: {versions: {specific: [1, 2]}, labels: {stable: 1, canary: 2}, canary: {weight: 5}}}\n"


@pytest.mark.parametrize(
    ("text", "operation", "message"),
    [
        (RUNNING, lambda model: edit.start("m", model, Start(3), {1, 2, 3}), r"runs already \(version 2 at 5 %\)"),
        (PLAIN, lambda model: edit.start("m", model, Start(9), {1, 2}), r"version 9 is not exported \(there are: 1, 2"),
        (PLAIN, lambda model: edit.start("m", model, Start(1), {1, 2}), "get already: a canary needs another version"),
        (PLAIN, lambda model: edit.promote("m", model), "has no canary"),
        (PLAIN, lambda model: edit.abort("m", model), "has no canary"),
        (PLAIN, lambda model: edit.weight("m", model, 5), "has no canary"),
        (PLAIN, lambda model: edit.pause("m", model), "has no canary"),
        (
            PLAIN,
            lambda model: edit.start("m", model, Start(2, interval="soon"), {1, 2}),
            'analysis.interval should be a duration such as 30s, 5m or 1h, is "soon"',
        ),
    ],
    ids=["runs already", "not exported", "stable itself", "promote", "abort", "weight", "pause", "interval"],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(text: str, operation: Any, message: str) -> None:
    with pytest.raises(CannotEdit, match=message) as caught:
        operation(serving(text).models["imagenet"])
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "models: {imagenet: {versions: {latest: 1}}}\n",
        "models:\n  imagenet: {versions: {latest: 1}}\n",
        "models:\n  imagenet:\n    versions: {latest: 1}  # the newest\n",
        "models:\n  imagenet:\n    versions:\n      latest: 1\n",
    ],
    ids=["one line", "a line for the model", "with a comment", "block"],
)
def test_the_only_setting_is_replaced_and_not_the_file_emptied(text: str) -> None:
    model = serving(edited(text, started(text, Start(2), {1, 2, 3}))).models["imagenet"]
    assert (str(model.versions), model.labels) == ("specific [2, 3]", {"stable": 3, "canary": 2})


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("{mirror: 5}", {"mirror": 5, "weight": 5}),
        ("{auto: true, paused: true}", {"auto": True, "weight": 5}),
        ("{weight: 30}", {"weight": 30}),
    ],
    ids=["mirror", "auto", "weight"],
)
def test_a_section_that_was_written_before_there_is_a_canary_is_what_it_starts_with(
    section: str, settings: dict[str, Any]
) -> None:
    text = PLAIN.replace("labels: {stable: 1}\n", f"labels: {{stable: 1}}\n    canary: {section}\n")
    source = parse(text, "serving.yaml")
    with pytest.raises(ConfigError, match="needs a version with label canary"):
        typed(source)
    before = typed(source, edit.mends("imagenet"))
    done = edit.start("imagenet", before.models["imagenet"], Start(2), {1, 2})
    model = serving(edit.rewritten(text, "serving.yaml", "imagenet", before, done.model)).models["imagenet"]
    assert model.labels == {"stable": 1, "canary": 2}
    assert model.canary is not None
    assert model.canary.model_dump(exclude_unset=True) == settings
    with pytest.raises(ConfigError):
        typed(parse(text.replace("{stable: 1}", "{stable: 9}"), "serving.yaml"), edit.mends("imagenet"))


def test_a_start_of_what_runs_already_changes_only_what_else_is_asked() -> None:
    model = serving(RUNNING).models["imagenet"]
    assert edited(RUNNING, edit.start("imagenet", model, Start(2), {1, 2})) == RUNNING
    more = edited(RUNNING, edit.start("imagenet", model, Start(2, auto=True, stable=1), {1, 2}))
    assert more == RUNNING.replace("{weight: 5}", "{weight: 5, auto: true}")
    with pytest.raises(CannotEdit, match="compared with version 1 already"):
        edit.start("imagenet", model, Start(2, stable=3), {1, 2, 3})


def test_a_version_with_another_label_is_not_retired() -> None:
    text = RUNNING.replace("canary: 2}", "canary: 2, next: 2}")
    done = edit.abort("m", serving(text).models["imagenet"])
    assert str(done.model.versions) == "specific [1, 2]"
    assert done.notes == ("version 2 stays: label next points at it",)
    latest = RUNNING.replace("{specific: [1, 2]}", "{latest: 2}")
    assert "version 1 stays" in edit.promote("m", serving(latest).models["imagenet"]).notes[0]


WORDS = st.sampled_from(["a", "b", "weight", "specific", "x-1"])
VALUES = st.recursive(
    st.one_of(st.integers(-5, 500), st.booleans(), WORDS, st.lists(st.integers(0, 9), min_size=1, max_size=3)),
    lambda inner: st.dictionaries(WORDS, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    document=st.dictionaries(WORDS, VALUES, min_size=1, max_size=4), path=st.lists(WORDS, min_size=1, max_size=3),
    value=VALUES, flow=st.sampled_from([True, False, None]), comments=st.booleans(),
)  # fmt: skip
@pytest.mark.slow
def test_setting_and_removing_mean_what_they_say(
    document: dict[str, Any], path: list[str], value: Any, flow: bool | None, comments: bool
) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow)
    if comments and flow is not True:
        text = "".join(f"{line}  # c{number}\n" for number, line in enumerate(text.splitlines()))
    expected = yaml.safe_load(text)
    inner = expected
    try:
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    except (AttributeError, TypeError):
        return  # the way there is no mapping
    result = set_value(text, tuple(path), value)
    assert yaml.safe_load(result) == expected
    assert (yaml.safe_load(remove(result, tuple(path))) or {}) == without(expected, path)


def without(document: dict[str, Any], path: list[str]) -> Any:
    """Mappings that are left empty go, but for the outermost."""
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    if not inner and len(path) > 1:
        return without(document, path[:-1])
    return document
