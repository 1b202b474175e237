from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from servekit.errors import StatusError
from servekit.protos import messages
from servekit.server.source import (
    AspiredVersions,
    FileSystemStoragePathSource,
    MonitoredServable,
    VersionPolicy,
    choose,
    folders_of,
    index_by_version,
    scan,
    version_number,
    version_policy,
)


@pytest.mark.parametrize(
    ("folder", "number"),
    [("1", 1), ("007", 7), ("-3", -3), ("+4", 4), (" 5", 5), ("9223372036854775807", 2**63 - 1)],
)
def test_folders_that_are_versions(folder: str, number: int) -> None:
    assert version_number(folder) == number


@pytest.mark.parametrize(
    "folder", ["", "v2", "1.5", "abc", "1_000", "\u0661", "9223372036854775808", ".staging-1", "1 2"]
)
def test_folders_that_are_not(folder: str) -> None:
    assert version_number(folder) is None


def test_of_two_names_of_one_version_the_last_counts_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert index_by_version(["7", "007", "x"]) == {7: "7"}
    assert "Version 7 will be loaded from 7, 007 will be ignored" in caplog.text


def test_with_all_versions_the_first_name_counts_and_specific_versions_prefer_their_own() -> None:
    names = ["7", "007", "8", "x"]
    assert folders_of(VersionPolicy(), names) == {7: "007", 8: "8"}
    assert folders_of(VersionPolicy(specific=frozenset({7})), ["7", "7 "]) == {7: "7"}
    assert folders_of(VersionPolicy(specific=frozenset({7, 9})), names)[7] == "7"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(latest=1), [3]),
        (VersionPolicy(latest=2), [3, 2]),
        (VersionPolicy(latest=9), [3, 2, 1]),
        (VersionPolicy(), [3, 2, 1]),
        (VersionPolicy(specific=frozenset({1, 3, 8})), [3, 1]),
        (VersionPolicy(specific=frozenset()), []),
    ],
    ids=["latest 1", "latest 2", "latest 9", "all", "specific", "specific without versions"],
)
def test_policies(policy: VersionPolicy, expected: list[int]) -> None:
    assert choose(policy, [1, 2, 3]) == expected


def test_policies_are_read_from_messages() -> None:
    message = messages.ModelConfig().model_version_policy
    assert version_policy(message) == VersionPolicy(latest=1)
    message.latest.num_versions = 0
    assert version_policy(message) == VersionPolicy(latest=1)
    message.specific.versions.extend([2, 1])
    assert version_policy(message) == VersionPolicy(specific=frozenset({1, 2}))
    message.all.SetInParent()
    assert version_policy(message) == VersionPolicy()


def test_a_file_uri_is_a_base_path(tmp_path: Path) -> None:
    (tmp_path / "4").mkdir()
    assert scan(MonitoredServable("m", f"file://{tmp_path}")) == {4: tmp_path / "4"}


def test_another_scheme_is_refused() -> None:
    with pytest.raises(StatusError, match="UNIMPLEMENTED: File system scheme 'gs' not implemented"):
        scan(MonitoredServable("m", "gs://bucket/m"))


def test_a_missing_base_path_is_an_error_and_not_a_model_without_versions(tmp_path: Path) -> None:
    with pytest.raises(
        StatusError, match=f"Could not find base path {tmp_path}/no for servable m with error NOT_FOUND"
    ):
        scan(MonitoredServable("m", f"{tmp_path}/no"))


def test_specific_versions_without_a_folder_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").mkdir()
    with caplog.at_level(logging.WARNING):
        found = scan(MonitoredServable("m", str(tmp_path), VersionPolicy(specific=frozenset({1, 2}))))
    assert found == {1: tmp_path / "1"}
    assert "Version 2 of servable m, which was requested to be served as a 'specific' version" in caplog.text


def test_an_empty_list_of_specific_versions_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`AspireSpecificVersionsFastPath` of file_system_storage_path_source.cc says this, and nothing else."""
    (tmp_path / "1").mkdir()
    assert scan(MonitoredServable("m", str(tmp_path), VersionPolicy(specific=frozenset()))) == {}
    assert caplog.messages == ["No specific versions requested for servable m."]


class Seen:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def __call__(self, name: str, versions: AspiredVersions) -> None:
        self.calls.append((name, sorted(versions)))


def test_one_base_path_that_is_gone_stops_the_look_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    seen = Seen()
    source = FileSystemStoragePathSource(seen, 1)
    source.update([MonitoredServable("a", str(tmp_path / "a")), MonitoredServable("b", str(tmp_path / "b"))])
    source.poll_once()
    assert seen.calls == []
    assert "FileSystemStoragePathSource encountered a filesystem access error: Could not find base path" in caplog.text
    (tmp_path / "b").mkdir()
    source.poll_once()
    assert seen.calls == [("a", [1]), ("b", [])]


def test_a_changed_configuration_is_looked_at_without_waiting_for_the_interval(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    seen = Seen()
    source = FileSystemStoragePathSource(seen, 3600)
    source.start()
    source.update([MonitoredServable("a", str(tmp_path))])
    deadline = time.monotonic() + 20
    while ("a", [1]) not in seen.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    source.stop()


def test_a_servable_that_is_no_longer_configured_is_unaspired_at_once(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    seen = Seen()
    source = FileSystemStoragePathSource(seen, -1)
    source.update([MonitoredServable("a", str(tmp_path)), MonitoredServable("b", str(tmp_path))])
    source.start()
    source.update([MonitoredServable("b", str(tmp_path))])
    assert seen.calls == [("a", [])]
    assert source.names == {"b"}
