"""The results file across runs, killed ones too."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from servekit.bulk.lines import Line, Question, encoded, failed
from servekit.bulk.results import Before, NotWritten, Plan, Results, ResultsError, difference, plan
from servekit.model_spec import ModelSpec

QUESTION = Question(ModelSpec("m", version_label="canary"), 2)


def line(name: str, error: str | None = None, question: Question = QUESTION) -> Line:
    document = failed(question, name, 1, "")
    return {**document, "error": error, "version": None if error else question.version}


def test_lines_of_an_earlier_run_are_read_back(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    results.append([line("a"), line("b", "broken")])
    results.close()
    assert Results(tmp_path / "r.jsonl").before(QUESTION) == Before({"a": 1, "b": 1}, {"b": "broken"})


@pytest.mark.parametrize("cut", [1, 5, 9, 40, 10_000], ids=lambda cut: f"{cut} bytes short")
def test_a_half_line_is_cut_off_and_whole_ones_stay(tmp_path: Path, cut: int) -> None:
    path, whole, half = tmp_path / "r.jsonl", encoded(line("a")), encoded(line("b"))
    path.write_bytes(whole + half[: max(0, len(half) - cut)])
    results = Results(path)
    assert list(results.before(QUESTION).sizes) == ["a"]
    assert path.read_bytes() == whole
    results.append([line("c")])
    assert path.read_bytes() == whole + encoded(line("c"))


def test_zeros_after_a_power_failure_are_a_half_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(encoded(line("a")) + bytes(100))
    assert list(Results(path).before(QUESTION).sizes) == ["a"]
    assert path.read_bytes() == encoded(line("a"))


@pytest.mark.parametrize("data", [b"\xff\xd8\xff photo", b"a,b\n1,2\n", b'{"file": "a"}\n'], ids=["jpg", "csv", "json"])
def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    results = Results(path)
    with pytest.raises(ResultsError, match=r"other:1: not a results file"):
        results.before(QUESTION)
    results.close()
    assert path.read_bytes() == data


def ask(name: str = "m", version: int | None = None, label: str | None = None, signature: str = "") -> ModelSpec:
    return ModelSpec(name, version, label, signature)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (Question(ask(label="canary"), 2), Question(ask(label="canary"), 2), None),
        (Question(ask(label="canary"), 2), Question(ask(version=2), 2), None),
        (Question(ask(), 2), Question(ask(signature="serving_default"), 2), None),
        (Question(ask("n"), 2), Question(ask(), 2), "has answers of model n, not m"),
        (Question(ask(signature="x"), 2), Question(ask(), 2), "has answers of signature x, not serving_default"),
        (
            Question(ask(label="canary"), 2),
            Question(ask(label="canary"), 3),
            "has answers of version 2; label canary is version 3 now",
        ),
        (Question(ask(), 2), Question(ask(version=3), 3), "has answers of version 2; version 3 is version 3 now"),
        (Question(ask(label="a"), 2), Question(ask(label="b"), 2), "was asked for with label a, not with label b"),
        (Question(ask(version=2), 2), Question(ask(), 2), "was asked for with version 2, not with no label"),
    ],
)
def test_only_the_same_question_goes_on(old: Question, new: Question, why: str | None) -> None:
    assert difference(line("a", question=old), new) == why


def test_the_plan_skips_what_is_done_and_asks_again_about_changed_files() -> None:
    found = {"done": 1, "changed": 2, "failed": 1, "new": 1}
    before = Before({"done": 1, "changed": 1, "failed": 1, "gone": 1}, {"failed": "x"})
    again = plan(found, before, retry_failed=True)
    assert plan(found, before, retry_failed=False) == Plan(
        ("changed", "new"), frozenset(["changed"]), 1, {"failed": "x"}
    )
    assert again == Plan(("changed", "failed", "new"), frozenset(["changed", "failed"]), 1, {})


def test_superseded_lines_go_away_and_the_file_can_be_a_link(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.symlink_to("real.jsonl")
    results = Results(path)
    results.append([line("a"), line("b", "x"), line("c")])
    results.remove({"b"})
    results.append([line("b")])
    assert path.is_symlink()
    assert path.read_bytes() == b"".join(encoded(line(name)) for name in "acb")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    first = Results(tmp_path / "r.jsonl")
    first.append([line("a")])
    with pytest.raises(ResultsError, match="another `servekit predict` is writing"):
        Results(tmp_path / "r.jsonl")
    first.remove({"a"})
    with pytest.raises(ResultsError, match="another `servekit predict` is writing"):
        Results(tmp_path / "r.jsonl")
    first.close()
    Results(tmp_path / "r.jsonl").close()
    assert list(tmp_path.iterdir()) == []  # an empty file is not left behind


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write comes back short, the next one fails."""
    path = tmp_path / "r.jsonl"
    results = Results(path)
    results.append([line("a")])
    before, soft_hard = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, soft_hard[1]))
    try:
        with pytest.raises(NotWritten, match=r"r\.jsonl: File too large"):
            results.append([line("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="No such file or directory"):
        Results(tmp_path / "nowhere" / "r.jsonl")
    with pytest.raises(ResultsError, match="Is a directory"):
        Results(tmp_path)
