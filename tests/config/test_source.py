"""YAML as editors read it (version 1.2), with the lines of everything."""

from __future__ import annotations

import pytest

from servekit.config.source import dotted, parse
from servekit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("Off", "Off"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("False", False),
        ("-3", -3),
        ("1.5", 1.5),
        ("~", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
    ],
)
def test_only_what_looks_like_a_number_is_one(text: str, value: object) -> None:
    result = parse(f"key: {text}", "x").value["key"]
    assert result == value
    assert type(result) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse("{1: a, yes: b, 1.0: c, ~: d}", "x").value == {"1": "a", "yes": "b", "1.0": "c", "~": "d"}


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    text = "base: &base {labels: {a: 1}, versions: all}\nother: {<<: *base, versions: {latest: 2}}\nthird: *base\n"
    source = parse(text, "x")
    assert source.value["other"] == {"labels": {"a": 1}, "versions": {"latest": 2}}
    assert source.value["third"] == source.value["base"]
    assert source.line(("other", "versions", "latest")) == 2
    assert source.line(("other", "labels", "a")) == 1


def test_several_mappings_can_be_merged_and_the_first_wins() -> None:
    assert parse("{a: &a {x: 1}, b: &b {x: 2, y: 2}, c: {<<: [*a, *b]}}", "x").value["c"] == {"x": 1, "y": 2}


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="too large"):
        parse("\n".join(lines), "x")


def test_lines_count_from_one_and_fall_back_to_what_is_around() -> None:
    source = parse("# comment\nmodels:\n  vit:\n    versions:\n      specific:\n        - 1\n        - 2\n", "x")
    assert source.line(("models", "vit", "versions", "specific", 1)) == 7
    assert source.line(("models", "vit", "versions", "specific", 9)) == 5
    assert source.line(("models", "vit", "labels")) == 3
    assert source.line(()) == 2


def test_paths_read_as_english_and_quote_what_would_be_misread() -> None:
    assert dotted(("models", "vit", "versions", "specific", 1)) == "models.vit.versions.specific[1]"
    assert dotted(("models", "vit.v2", "labels")) == 'models["vit.v2"].labels'
