"""Real folders, as people leave them behind, and what TF Serving would make of them."""

from __future__ import annotations

import json
import shlex
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from servekit.config.load import load
from servekit.doctor import model_folders, versions
from servekit.doctor.finding import Finding, Severity
from servekit.export.saved_model import parse_saved_model
from servekit.export.tfrecord import write_records
from tests.conftest import ROOT
from tests.doctor.homes import Home

WARMUP = "assets.extra/tf_serving_warmup_requests"


def look(home: Home, *only: str) -> list[Finding]:
    return list(versions.judge(model_folders.gather(load(home.bundle.serving_yaml), home.bundle.models, only)))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_two_whole_versions_are_no_finding(home: Home) -> None:
    assert look(home) == []


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no variables folder": (lambda one: shutil.rmtree(one / "variables"), "versions.no-variables"),
    "variables without index": (lambda one: (one / "variables/variables.index").unlink(), "versions.no-variables"),
    "no data beside the index": (
        lambda one: (one / "variables/variables.data-00000-of-00001").unlink(),
        "versions.missing-shards",
    ),
    "one of two data files": (
        lambda one: (one / "variables/variables.data-00000-of-00001").rename(
            one / "variables/variables.data-00000-of-00002"
        ),
        "versions.missing-shards",
    ),
    "no saved_model.pb": (lambda one: (one / "saved_model.pb").unlink(), "versions.no-saved-model"),
    "cut saved_model.pb": (lambda one: cut(one / "saved_model.pb", 1000), "versions.broken-saved-model"),
    "empty saved_model.pb": (lambda one: cut(one / "saved_model.pb", 0), "versions.broken-saved-model"),
    "garbage": (lambda one: (one / "saved_model.pb").write_bytes(b"\xff" * 99), "versions.broken-saved-model"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_version_that_is_not_whole_is_an_error_where_it_is_served(home: Home, name: str) -> None:
    damage, code = DAMAGES[name]
    damage(home.model / "2")
    found = only(look(home))
    assert (found.code, found.severity) == (code, Severity.ERROR)
    assert found.place.startswith("models/half_plus_two/2")


def test_and_a_warning_where_it_is_not(home: Home) -> None:
    home.configure("models: {half_plus_two: {versions: {specific: [1]}}}")
    shutil.rmtree(home.model / "2" / "variables")
    assert only(look(home)).severity is Severity.WARNING


def test_the_latest_policy_takes_a_broken_newest_version(home: Home) -> None:
    home.configure("models: {half_plus_two: {versions: {latest: 1}}}")
    (home.model / "3").mkdir()
    found = only(look(home))
    assert (found.code, found.severity, found.place) == (
        "versions.no-saved-model",
        Severity.ERROR,
        "models/half_plus_two/3",
    )


@pytest.mark.parametrize("name", ["v3", "2026-11-22", "1.5", "3 copy", "9223372036854775808"])
def test_a_name_that_is_no_number_is_ignored_by_the_server(home: Home, name: str) -> None:
    shutil.copytree(home.model / "1", home.model / name)
    found = only(look(home))
    assert (found.code, found.severity) == ("versions.ignored", Severity.WARNING)
    assert found.remedy == f"mv {shlex.quote(f'models/half_plus_two/{name}')} models/half_plus_two/3"


def test_a_date_without_dashes_is_a_version(home: Home) -> None:
    shutil.copytree(home.model / "1", home.model / "20261122")
    assert look(home) == []


def test_leading_zeros_are_said(home: Home) -> None:
    (home.model / "2").rename(home.model / "002")
    found = only(look(home))
    assert (found.code, found.severity) == ("versions.spelled", Severity.NOTE)
    assert "version 2" in found.message


def test_two_names_of_one_number_are_an_error(home: Home) -> None:
    shutil.copytree(home.model / "1", home.model / "01")
    assert {found.code for found in look(home)} == {"versions.same-number", "versions.spelled"}


def test_a_negative_version_can_be_asked_for_by_nobody(home: Home) -> None:
    shutil.copytree(home.model / "1", home.model / "-1")
    assert only(look(home)).code == "versions.negative"


def test_a_file_with_a_number_for_a_name_is_no_version(home: Home) -> None:
    (home.model / "7").write_text("notes")
    assert only(look(home)).code == "versions.file"


def test_a_saved_model_without_a_version_folder(home: Home) -> None:
    folder = home.bundle.models / "flat"
    shutil.copytree(home.model / "1", folder)
    found = only(look(home, "flat"))
    assert (found.code, found.severity) == ("versions.no-version-folder", Severity.WARNING)
    home.configure("models: {flat: {}}")
    assert only(look(home, "flat")).severity is Severity.ERROR


def test_a_saved_model_one_folder_too_deep_is_pointed_at(home: Home) -> None:
    (home.model / "2").rename(home.root / "export")
    (home.model / "2").mkdir()
    (home.root / "export").rename(home.model / "2" / "export")
    found = only(look(home))
    assert found.code == "versions.no-saved-model"
    assert found.remedy == "mv models/half_plus_two/2/export/* models/half_plus_two/2/"


def test_names_that_differ_only_in_case(home: Home) -> None:
    shutil.copytree(home.model, home.bundle.models / "Half_Plus_Two")
    found = next(one for one in look(home) if one.code == "versions.same-but-for-case")
    assert "half_plus_two" in found.place
    assert "Half_Plus_Two" in found.place


def test_a_model_that_nobody_serves_is_a_note(home: Home) -> None:
    shutil.copytree(ROOT / "tests" / "models" / "strings", home.bundle.models / "strings")
    found = only(look(home))
    assert (found.code, found.place) == ("versions.not-served", "models/strings")


def test_another_size_than_the_manifest_says(home: Home) -> None:
    graph = home.model / "2" / "saved_model.pb"
    files = {"saved_model.pb": {"size_bytes": graph.stat().st_size, "sha256": ""}}
    (home.model / "2" / "manifest.json").write_text(json.dumps({"manifest_version": 1, "files": files}))
    assert look(home) == []
    graph.write_bytes(graph.read_bytes() + b"\x0a\x00")  # still a SavedModel: a second, empty, graph
    assert only(look(home)).code == "versions.changed"


def test_a_graph_with_other_tags_than_the_server_asks_for(home: Home) -> None:
    models = model_folders.gather(load(home.bundle.serving_yaml), home.bundle.models)
    found = list(versions.judge(models, tags=frozenset({"serve", "gpu"})))
    assert {one.code for one in found} == {"versions.wrong-tags"}
    assert "only: serve" in found[0].message


@pytest.mark.parametrize(("records", "code"), [(1000, None), (1001, "versions.warmup-too-long")])
def test_more_than_a_thousand_warmup_records_fail_the_load(home: Home, records: int, code: str | None) -> None:
    path = home.model / "2" / WARMUP
    path.parent.mkdir()
    write_records(path, [b"record"] * records)
    assert [found.code for found in look(home)] == ([code] if code else [])


@pytest.mark.parametrize("data", [b"no record at all", struct.pack("<Q", 10**12) + b"1234"], ids=["text", "length"])
def test_a_damaged_warmup_file_fails_the_load(home: Home, data: bytes) -> None:
    path = home.model / "2" / WARMUP
    path.parent.mkdir()
    path.write_bytes(data)
    assert only(look(home)).code == "versions.warmup-broken"


def test_a_graph_without_variables_needs_no_variables_folder(home: Home) -> None:
    """An export whose weights are constants has none."""
    proto = parse_saved_model(home.model / "2")
    for meta in proto.meta_graphs:
        del meta.graph_def.node[:]
        del meta.graph_def.library.function[:]
    shutil.rmtree(home.model / "2" / "variables")
    (home.model / "2" / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert look(home) == []
