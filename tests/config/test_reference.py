"""docs/configuration.md cannot fall behind the types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servekit.config.extra_flags import ALL_FLAGS
from servekit.config.reference import main, tables
from servekit.protos import messages


def test_the_tables_are_up_to_date() -> None:
    main(["--check"])


def test_an_old_table_is_noticed_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVEKIT_HOME", str(tmp_path))
    page = tmp_path / "docs" / "configuration.md"
    page.parent.mkdir()
    page.write_text(
        "before\n<!-- keys: written by python -m servekit.config.reference -->\nold\n<!-- end of keys -->\nafter\n"
    )
    with pytest.raises(SystemExit, match="out of date"):
        main(["--check"])
    main([])
    main(["--check"])
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("-->\nafter\n")


def test_what_keys_become_exists() -> None:
    text = tables()
    assert set(re.findall(r"`--([a-z_]+)`", text)) <= ALL_FLAGS
    fields = {field.name for field in messages.BatchingParameters.DESCRIPTOR.fields}
    assert set(re.findall(r"`batching\.config`: `(\w+)`", text)) <= fields
