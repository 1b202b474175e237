"""The page that `scripts/performance` writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.performance import page
from benchmarks.performance.__main__ import PARTS, main
from benchmarks.performance.section import Plot, Ratio, Section, in_pairs, in_turn
from servekit.tune.figures import Figures
from tests.conftest import ROOT

DOCS = ROOT / "docs"


def part(section: Section | None = None, **changed: Any) -> dict[str, Any]:
    told = {
        "title": "Title", "about": "About.", "date": "2026-01-02T03:04:05+00:00", "command": "./scripts/performance",
        "machine": {"cpu": "CPU", "cores": 2, "python": "3.11"}, "engine": "embedded", "rounds": 2, "round_s": 1.0,
        "quick": False, "load": 0.1,
    }  # fmt: skip
    return told | ({"section": section.document()} if section else {}) | changed


def test_every_figure_has_its_command_machine_date_and_ratio() -> None:
    ratio = in_pairs("ours / theirs", [2.0, 3.0, 8.0], [1.0, 1.0, 2.0], least=1.15)
    section = Section(("side", "per second"), (("ours", 1234.0), ("theirs", None)), (ratio,), Plot("plot", "ms"))
    text = page.page_of({"x": part(section)})
    assert "`./scripts/performance`, 2026-01-02, CPU, 2 cores" in text
    assert "| ours | 1,234 |" in text
    assert "| theirs | – |" in text
    assert "| ours / theirs | **3.000** | 2.00, 3.00, 4.00 | at least 1.15: met |" in text
    assert "![plot](performance/x.svg)" in text
    assert "too short to be quoted" in page.page_of({"x": part(section, quick=True)})


def test_what_could_not_be_measured_says_why_and_a_missed_goal_is_told() -> None:
    assert "Not measured: no Envoy" in page.page_of({"x": part(skipped="no Envoy")})
    section = Section((), (), (Ratio("a / b", 1.6, most=1.5), Ratio("c / d", 1.0)), Plot("", ""))
    assert list(page.missed({"x": part(section), "y": part(skipped="z")})) == ["x: a / b is 1.6, goal at most 1.5"]


def test_sides_take_turns_and_failed_requests_end_a_part() -> None:
    order: list[str] = []

    def side(name: str, errors: float = 0.0) -> Any:
        def measure() -> Figures:
            order.append(name)
            return Figures(1.0, 1.0, 1.0, errors, 1.0, 1.0)

        return measure

    in_turn({"a": side("a"), "b": side("b")}, 3)
    assert "".join(order) == "ab" + "abbaab"  # the first do not count
    with pytest.raises(RuntimeError, match=r"c: 2.0% of the requests failed"):
        in_turn({"c": side("c", 0.02)}, 1)


def test_the_committed_page_is_what_the_committed_results_say() -> None:
    results = json.loads((DOCS / "performance" / "results.json").read_text(encoding="utf-8"))
    assert list(results) == [name for name in PARTS if name in results]
    assert (DOCS / "performance.md").read_text(encoding="utf-8") == page.page_of(results), (
        "hint: ./scripts/performance --render"
    )
    for name, measured in results.items():
        if "section" in measured:
            plot = (DOCS / "performance" / f"{name}.svg").read_text(encoding="utf-8")
            assert plot == page.plot_of(measured["section"]["plot"])


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "nothing"])
    assert stopped.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
