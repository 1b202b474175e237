"""serving.yaml, right and wrong. Each tests/config/bad/NAME.yaml has its errors, word for word, in NAME.txt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.config.load import load, typed
from servekit.config.models import Latest, Specific
from servekit.config.source import parse
from servekit.errors import ConfigError, ExitCode, Problem

ROOT = Path(__file__).resolve().parents[2]
BAD = Path(__file__).parent / "bad"


@pytest.mark.parametrize("case", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_mistake_is_named_with_its_line_and_a_way_out(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as raised:
        load(Path(case.name))
    assert f"{raised.value}\n" == case.with_suffix(".txt").read_text()
    assert raised.value.exit_code == ExitCode.USAGE


def test_the_shipped_file_is_right() -> None:
    serving = load(ROOT / "config" / "serving.yaml")
    assert serving.models["imagenet"].versions == Specific(specific=(1, 2))
    assert serving.models["imagenet"].labels == {"stable": 1, "canary": 2}
    assert (serving.server.port, serving.server.rest_api_port) == (8500, 8501)


def test_the_shipped_file_shows_every_key_and_its_default() -> None:
    """But for the keys that name something of the user's."""
    written = yaml.safe_load((ROOT / "config" / "serving.yaml").read_text())
    defaults = typed(parse("models: {imagenet: {}}", "defaults"))
    for section in ("batching", "monitoring", "server"):
        shown = {key: tuple(value) if isinstance(value, list) else value for key, value in written[section].items()}
        assert shown | {"flags": {}} == getattr(defaults, section).model_dump() | {"flags": {}}


def test_a_model_without_settings_serves_its_highest_version() -> None:
    model = typed(parse("models: {vit: {}}", "x")).models["vit"]
    assert model.versions == Latest(latest=1)
    assert model.labels == {}


def test_labels_of_latest_and_all_wait_for_the_folders_to_be_checked() -> None:
    typed(parse("models: {vit: {versions: all, labels: {stable: 7}}}", "x"))


def test_a_label_may_move_to_any_version_of_the_policy() -> None:
    for version in (1, 2):
        typed(parse(f"models: {{vit: {{versions: {{specific: [1, 2]}}, labels: {{canary: {version}}}}}}}", "x"))


def test_several_labels_may_share_a_version() -> None:
    serving = typed(parse("models: {vit: {versions: {specific: [1]}, labels: {a: 1, b: 1}}}", "x"))
    assert serving.models["vit"].labels == {"a": 1, "b": 1}


def test_version_zero_and_the_largest_are_versions() -> None:
    serving = typed(parse("models: {vit: {versions: {specific: [0, 9223372036854775807]}}}", "x"))
    assert serving.models["vit"].versions == Specific(specific=(0, 2**63 - 1))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving\.yaml: does not exist\nhint: SERVEKIT_HOME=FOLDER names"):
        load(tmp_path / "serving.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodels:\r\n  vit: {}\r\n")
    assert list(load(path).models) == ["vit"]


def test_what_was_loaded_cannot_be_changed() -> None:
    serving = typed(parse("models: {vit: {}}", "x"))
    with pytest.raises(ValueError, match="frozen"):
        serving.server.port = 1


def problems_of(text: str) -> tuple[Problem, ...]:
    """None of them, or at least one; nothing but ConfigError may be raised."""
    try:
        typed(parse(text, "any.yaml"))
    except ConfigError as error:
        return error.problems
    return ()


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_keys = st.sampled_from(
    ["models", "batching", "server", "monitoring", "vit", "versions", "labels", "latest", "specific", "flags", "port"]
) | st.text(max_size=4)
_documents = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12
)


@given(_documents)
@settings(max_examples=100, deadline=None)
def test_any_yaml_is_either_right_or_refused_with_a_line(document: object) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    lines = text.count("\n") + 1
    assert all(problem.line is None or 1 <= problem.line <= lines for problem in problems_of(text))


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_is_either_right_or_refused(text: str) -> None:
    problems_of(text)
