"""The file that a tuning goes on from."""

from __future__ import annotations

import contextlib
from pathlib import Path

from servekit.tune.journal import Journal


def test_what_was_asked_once_is_not_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "deep" / "x.journal", []

    def find() -> list[int]:
        asked.append(1)
        return [len(asked)]

    assert Journal(path, {"a": 1}).ask("q", find) == [1]
    again = Journal(path, {"a": 1})
    assert again.known == 1
    assert again.ask("q", find) == [1]
    assert again.ask("other", find) == [2]
    assert Journal(path, {"a": 1}, fresh=True).ask("q", find) == [3]


def test_other_inputs_and_broken_files_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    Journal(path, {"a": 1}).ask("q", lambda: 1)
    assert Journal(path, {"a": 2}).known == 0
    for text in ("", "{", "[]", '{"schema": 1, "key": "x", "steps": {}}', path.read_text().replace("seconds", "s")):
        path.write_text(text)
        assert Journal(path, {"a": 1}).known == 0


def test_an_answer_that_was_not_found_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"

    def fail() -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        Journal(path, {}).ask("q", fail)
    assert not path.exists()
