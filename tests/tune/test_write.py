"""The winner in serving.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from servekit.config.load import typed
from servekit.config.source import parse
from servekit.errors import ConfigError
from servekit.tune.setting import Value
from servekit.tune.write import rewritten, write

MINE = """\
# mine
models: {a: {}}   # one

batching:         # how
  enabled: true
  batch_timeout_micros: 0   # none
server:
  port: 9000
  flags: {grpc_max_threads: 3, enable_model_warmup: true}
"""
CHANGES: dict[str, Value] = {
    "batching.batch_timeout_micros": 1000,
    "batching.max_execution_batch_size": 8,
    "batching.allowed_batch_sizes": "auto",
    "server.tensorflow_intra_op_parallelism": 2,
    "server.flags.grpc_max_threads": None,
    "server.flags.rest_api_num_threads": 17,
}


def test_only_the_changes_are_written_and_the_evidence_above_them() -> None:
    text = rewritten(MINE, "serving.yaml", CHANGES, ["servekit tune a, today:", "better " * 30])
    assert [line for line in text.splitlines() if line not in MINE.splitlines()] == [
        "# tuned: servekit tune a, today:",
        "# tuned: " + " ".join(["better"] * 16),
        "# tuned: " + " ".join(["better"] * 14),
        "  batch_timeout_micros: 1000   # none",
        "  max_execution_batch_size: 8",
        "  allowed_batch_sizes: auto",
        "  flags: {enable_model_warmup: true, rest_api_num_threads: 17}",
        "  tensorflow_intra_op_parallelism: 2",
    ]
    lines = text.splitlines()
    assert lines.index("batching:         # how") == lines.index("# tuned: servekit tune a, today:") + 3
    assert typed(parse(text, "x")).batching.max_execution_batch_size == 8


def test_evidence_of_an_earlier_tuning_is_replaced() -> None:
    once = rewritten(MINE, "x", {"batching.batch_timeout_micros": 1000}, ["first"])
    twice = rewritten(once, "x", {"server.tensorflow_intra_op_parallelism": 2}, ["second"])
    assert "first" not in twice
    assert "# tuned: second\nserver:" in twice


def test_sections_that_are_missing_are_made_and_line_ends_kept() -> None:
    text = rewritten("models: {a: {}}\r\n", "x", {"batching.enabled": False}, ["why"])
    assert text == "models: {a: {}}\r\n# tuned: why\r\nbatching:\r\n  enabled: false\r\n"


def test_a_file_that_cannot_be_changed_alone_is_left(tmp_path: Path) -> None:
    shared = "models: {a: {}}\nbatching: &b {enabled: true}\nmonitoring: {<<: *b}\n"
    path = tmp_path / "serving.yaml"
    path.write_text(shared)
    with pytest.raises(ConfigError, match="cannot be changed without changing something else"):
        write(path, {"batching.enabled": False}, ["why"], before=shared)
    assert path.read_text() == shared


def test_a_file_that_was_edited_meanwhile_is_left(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    path.write_text(MINE + "# edited\n")
    with pytest.raises(ConfigError, match="was edited during the tuning"):
        write(path, {"batching.enabled": False}, ["why"], before=MINE)
    assert path.read_text() == MINE + "# edited\n"
