from __future__ import annotations

from pathlib import Path

import pytest

from servekit.server.wire_format import is_cut_short


@pytest.fixture(scope="module")
def saved_model(models: Path) -> bytes:
    return (models / "half_plus_two" / "1" / "saved_model.pb").read_bytes()


def test_a_whole_message_is_not_cut_short(saved_model: bytes) -> None:
    assert not is_cut_short(saved_model)


def test_any_beginning_of_a_field_is(saved_model: bytes) -> None:
    assert all(is_cut_short(saved_model[:size]) for size in range(3, 300))


def test_other_bytes_are_not(saved_model: bytes) -> None:
    assert not is_cut_short(b"this is not a SavedModel\n")
    assert not is_cut_short(b"")
    assert not is_cut_short(b"\x00" * 10)
