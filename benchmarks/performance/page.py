"""docs/performance.md and its plots from what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from servekit.bench import svg

INTRO = """\
# Performance

Written by `./scripts/performance`, which measures each part and replaces it here; `--only PART` does one, `--quick`
shows that all of them run. What is compared takes turns within one run, every other round in reverse, so that
whatever else the machine does hits all sides: **compare ratios, not figures of two parts**. A ratio is the median of
its rounds' ratios, which stand behind it. Latencies are of good answers; a failed request ends a part. How load is
made: [measuring.md](measuring.md). `servekit tune` finds better settings for your model on your machine.
"""


def page_of(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """`parts` by name, in the order in which they are shown."""
    return "\n".join([INTRO, *(_part(name, part) for name, part in parts.items())])


def plot_of(plot: Mapping[str, Any]) -> str:
    if plot["lines"]:
        of = [(name, [(x, y) for x, y in points]) for name, points in plot["lines"].items()]
        return svg.lines(plot["title"], plot["unit"], of) + "\n"
    return svg.bars(plot["title"], plot["unit"], plot["bars"]) + "\n"


def missed(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Ratios that miss their goals."""
    for name, part in parts.items():
        for ratio in part.get("section", {}).get("ratios", ()):
            if _verdict(ratio) == "missed":
                yield f"{name}: {ratio['name']} is {ratio['value']:g}, goal {_goal(ratio)}"


def _part(name: str, part: Mapping[str, Any]) -> str:
    lines = [f"## {part['title']}", "", part["about"], ""]
    if "skipped" in part:
        return "\n".join([*lines, f"Not measured: {part['skipped']}", ""])
    machine, section = part["machine"], part["section"]
    quick = ", **quick: too short to be quoted**" if part["quick"] else ""
    lines.append(
        f"`{part['command']}`, {part['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, Python "
        f"{machine['python']}, engine {part['engine']}; {part['rounds']} rounds of {part['round_s']:g} s, "
        f"load of the machine before {part['load']:.1f}{quick}."
    )
    lines += ["", f"![{section['plot']['title']}](performance/{name}.svg)", ""]
    lines += _table(section["heads"], section["rows"])
    lines += ["", *_table(("ratio", "median", "rounds", "goal"), [_ratio(ratio) for ratio in section["ratios"]]), ""]
    lines += [f"{note}\n" for note in section["notes"]]
    return "\n".join(lines)


def _ratio(ratio: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = ", ".join(f"{pair:.2f}" for pair in ratio["pairs"])
    goal = _goal(ratio)
    value = f"{ratio['value']:.3f}" if goal else f"{ratio['value']:.2f}"
    return ratio["name"], f"**{value}**", pairs, f"{goal}: {_verdict(ratio)}" if goal else ""


def _goal(ratio: Mapping[str, Any]) -> str:
    if ratio["least"] is not None:
        return f"at least {ratio['least']:g}"
    return f"at most {ratio['most']:g}" if ratio["most"] is not None else ""


def _verdict(ratio: Mapping[str, Any]) -> str:
    least, most = ratio["least"], ratio["most"]
    kept = (least is None or ratio["value"] >= least) and (most is None or ratio["value"] <= most)
    return "met" if kept else "missed"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    def numeric(place: int) -> bool:
        return all(not isinstance(row[place], str) for row in rows)

    marks = ["---:" if numeric(place) else "---" for place in range(len(heads))]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(marks)} |"]
    return lines + [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]


def _cell(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
