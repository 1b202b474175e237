"""Each row: versions as `NUMBER STATE [unwanted]`, and the action that must come next."""

from __future__ import annotations

import pytest

from servekit.server.policy import (
    Action,
    AspiredVersionPolicy,
    HarnessState,
    Snapshot,
    Verb,
    availability_preserving,
    first_of,
    resource_preserving,
)
from servekit.server.servable import ServableId


def snapshots(text: str) -> list[Snapshot]:
    found = []
    for words in (part.split() for part in text.split(",") if part.strip()):
        found.append(Snapshot(ServableId("m", int(words[0])), HarnessState(words[1]), "unwanted" not in words))
    return found


def told(action: Action | None) -> str:
    return f"{action.verb.name.lower()} {action.id.version}" if action else "nothing"


BOTH = [
    ("", "nothing"),
    ("1 new", "load 1"),
    ("1 new, 2 new", "load 2"),
    ("1 new, 2 busy", "load 1"),
    ("1 ready, 2 ready", "nothing"),
    ("1 ready unwanted", "unload 1"),
    ("1 ready unwanted, 2 ready", "unload 1"),
    ("1 ready unwanted, 2 ready unwanted, 3 new", "unload 1"),
    ("1 ready unwanted, 2 ready, 3 new", "unload 1"),
    ("1 error, 2 disabled", "nothing"),
]


@pytest.mark.parametrize(("versions", "expected"), BOTH, ids=[row[0] or "no versions" for row in BOTH])
@pytest.mark.parametrize("policy", [availability_preserving, resource_preserving])
def test_both_policies(policy: AspiredVersionPolicy, versions: str, expected: str) -> None:
    assert told(policy(snapshots(versions))) == expected


AVAILABILITY = [
    ("1 ready unwanted, 2 new", "load 2"),
    ("1 ready unwanted, 2 busy", "nothing"),
    ("1 ready unwanted, 2 error", "nothing"),
    ("1 ready unwanted, 2 error, 3 new", "load 3"),
    ("3 ready unwanted, 4 new, 5 ready", "unload 3"),
]


@pytest.mark.parametrize(("versions", "expected"), AVAILABILITY, ids=[row[0] for row in AVAILABILITY])
def test_availability_preserving_keeps_the_last_ready_version(versions: str, expected: str) -> None:
    assert told(availability_preserving(snapshots(versions))) == expected


RESOURCE = [
    ("1 ready unwanted, 2 new", "unload 1"),
    ("1 busy unwanted, 2 new", "nothing"),
    ("1 disabled unwanted, 2 new", "load 2"),
    ("1 error unwanted, 2 new", "load 2"),
]


@pytest.mark.parametrize(("versions", "expected"), RESOURCE, ids=[row[0] for row in RESOURCE])
def test_resource_preserving_frees_before_it_loads(versions: str, expected: str) -> None:
    assert told(resource_preserving(snapshots(versions))) == expected


def test_any_unload_comes_before_any_load() -> None:
    load, unload = Action(Verb.LOAD, ServableId("a", 1)), Action(Verb.UNLOAD, ServableId("b", 1))
    assert first_of([None, load, unload]) == unload
    assert first_of([load, None]) == load
    assert first_of([None]) is None
    assert first_of([]) is None
