"""A dashboard's JSON and Prometheus' answers to a page: a likeness for README, close to Grafana's look, not Grafana."""

from __future__ import annotations

import html
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS, CELL_PX, ROW_PX, GAP_PX = 24, 60, 38, 8
COLOURS = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#B877D9", "#5794F2", "#FFA6B0", "#37872D")
NAMED = {"green": "#73BF69", "red": "#F2495C", "orange": "#FF9830", "blue": "#5794F2", "text": "#D8D9DA"}
STYLE = f"""
body {{ margin: 0; padding: 12px; background: #111217; color: #ccccdc; font: 13px "DejaVu Sans", sans-serif;
  width: {COLUMNS * CELL_PX}px; }}
h1 {{ font-size: 18px; font-weight: 500; margin: 0 0 10px; }} h1 small {{ color: #8e8e9c; font-size: 12px; }}
.grid {{ position: relative; }}
.panel {{ position: absolute; background: #181b1f; border: 1px solid #2a2d33; border-radius: 3px; overflow: hidden; }}
.row, .bare {{ background: none; border: none; }} .row b {{ font-size: 14px; line-height: 38px; }}
.title {{ font-size: 13px; font-weight: 500; padding: 7px 10px 3px; color: #d8d9da; }}
.number {{ text-align: center; font-size: 38px; font-weight: 500; padding-top: 20px; }}
.empty {{ text-align: center; color: #8e8e9c; padding-top: 40px; }}
.legend {{ padding: 0 10px; font-size: 11px; line-height: 17px; }}
.legend span {{ margin-right: 14px; white-space: nowrap; }}
.legend i {{ display: inline-block; width: 12px; height: 3px; margin-right: 5px; vertical-align: middle; }}
table {{ border-collapse: collapse; width: 100%; font-size: 12px; }}
th {{ text-align: left; color: #6e9fff; font-weight: 500; }}
td, th {{ padding: 6px 10px; border-bottom: 1px solid #24272d; }}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its legend, labels, and points (Unix time, value)."""

    name: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


def page(dashboard: Mapping[str, Any], answers: Mapping[int, Sequence[Series]], note: str) -> str:
    """`answers` by panel id."""
    cells = "".join(_panel(panel, answers.get(panel["id"], ())) for panel in dashboard["panels"])
    title = f"<h1>{html.escape(dashboard['title'])} <small>{html.escape(note)}</small></h1>"
    style = f"<style>{STYLE} .grid {{ height: {height_px(dashboard) - 60}px; }}</style>"
    return f"<!doctype html><meta charset=utf-8>{style}{title}<div class=grid>{cells}</div>"


def height_px(dashboard: Mapping[str, Any]) -> int:
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    return int(bottom * ROW_PX) + 70


def width_px() -> int:
    return COLUMNS * CELL_PX + 24


def shown(value: float, unit: str) -> str:
    """As Grafana writes a value in this unit, with three digits or so."""
    if math.isnan(value):
        return "–"
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{_digits(value * 100)}%"
    if unit == "s":
        return f"{_digits(value)} s" if value >= 1 or value == 0 else f"{_digits(value * 1000)} ms"
    if unit == "bytes":
        for name, size in (("GiB", 2**30), ("MiB", 2**20)):
            if value >= size:
                return f"{_digits(value / size)} {name}"
    suffix = {"reqps": " req/s", "ops": " ops/s"}.get(unit, "")
    return _digits(value) + suffix


def _digits(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _panel(panel: Mapping[str, Any], series: Sequence[Series]) -> str:
    place = panel["gridPos"]
    width, height = place["w"] * CELL_PX - GAP_PX, place["h"] * ROW_PX - GAP_PX
    where = f"left:{place['x'] * CELL_PX}px;top:{place['y'] * ROW_PX}px;width:{width}px;height:{height}px"
    if panel["type"] == "row":
        return f'<div class="panel row" style="{where}"><b>{html.escape(panel["title"])}</b></div>'
    if panel["type"] == "text":
        words = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(panel["options"]["content"]))
        return f'<div class="panel bare" style="{where};line-height:20px">{words}</div>'
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "short")
    if not series:
        inside = f"<div class=empty>{html.escape(defaults.get('noValue', 'No data'))}</div>"
    elif panel["type"] == "stat":
        inside = _number(panel, series[0], unit)
    elif panel["type"] == "table":
        inside = _table(panel, series, unit)
    else:
        inside = _curves(panel, series, unit, width, height)
    return f'<div class=panel style="{where}"><div class=title>{html.escape(panel["title"])}</div>{inside}</div>'


def _number(panel: Mapping[str, Any], one: Series, unit: str) -> str:
    value = one.points[-1][1]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
    decimals = panel["fieldConfig"]["defaults"].get("decimals")
    text = shown(value if decimals is None else round(value, decimals), unit)
    text = one.name if panel["options"].get("textMode") == "name" else text
    return f'<div class=number style="color:{NAMED[colour]}">{html.escape(text)}</div>'


def _table(panel: Mapping[str, Any], series: Sequence[Series], unit: str) -> str:
    organize = panel["transformations"][0]["options"]
    first = sorted(organize["indexByName"].keys() - {"Value"}, key=organize["indexByName"].__getitem__)
    others = sorted({label for one in series for label in one.labels} - {*first, "__name__"})
    value = organize["renameByName"].get("Value")
    head = [*first, *others, *([value] if value else [])]
    lines = sorted(
        [
            *(one.labels.get(label, "") for label in (*first, *others)),
            *([shown(one.points[-1][1], unit)] if value else []),
        ]
        for one in series
    )
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in line) for line in lines)
    return "<table><tr>" + "".join(f"<th>{html.escape(name)}" for name in head) + cells + "</table>"


def _curves(panel: Mapping[str, Any], series: Sequence[Series], unit: str, width: int, height: int) -> str:
    left, top, right, bottom = 74, 6, width - 14, height - 86
    times = [when for one in series for when, _ in one.points]
    begin, end = min(times), max(max(times), min(times) + 1)
    highest = max((value for one in series for _, value in one.points if not math.isnan(value)), default=0.0)
    scale = next((size for size in (2**30, 2**20) if unit == "bytes" and highest >= size), 1)
    step = _step((highest or 1.0) / scale) * scale
    ceiling = step * max(1, math.ceil(highest / step - 1e-9))

    def at(when: float, value: float) -> str:
        x = left + (right - left) * (when - begin) / (end - begin)
        return f"{x:.1f},{bottom - (bottom - top) * min(value / ceiling, 1):.1f}"

    drawn = []
    for count in range(round(ceiling / step) + 1):
        y = bottom - (bottom - top) * count * step / ceiling
        drawn.append(f'<line x1={left} x2={right} y1={y:.1f} y2={y:.1f} stroke="#2a2d33"/>')
        drawn.append(f"<text x={left - 8} y={y + 4:.1f} text-anchor=end>{shown(count * step, unit)}</text>")
    for quarter in range(5):
        when = begin + (end - begin) * quarter / 4
        anchor = ("start", "middle", "middle", "middle", "end")[quarter]
        x = left + (right - left) * quarter / 4
        clock = time.strftime("%H:%M:%S", time.gmtime(when))
        drawn.append(f"<text x={x:.1f} y={bottom + 18} text-anchor={anchor}>{clock}</text>")
    legend = []
    for number, one in enumerate(series):
        colour = _fixed_colour(panel, one.name) or COLOURS[number % len(COLOURS)]
        points = " ".join(at(when, value) for when, value in one.points if not math.isnan(value))
        dash = ' stroke-dasharray="6 5" stroke-width=1' if one.name == "threshold" else " stroke-width=1.8"
        drawn.append(f'<polyline points="{points}" fill=none stroke="{colour}"{dash} />')
        legend.append(f'<span><i style="background:{colour}"></i>{html.escape(one.name)}</span>')
    size = f'width={width} height={height - 58} fill="#8e8e9c" font-size=11'
    return f"<svg {size}>{''.join(drawn)}</svg><div class=legend>{''.join(legend)}</div>"


def _fixed_colour(panel: Mapping[str, Any], name: str) -> str | None:
    for override in panel["fieldConfig"]["overrides"]:
        how, what = override["matcher"]["id"], override["matcher"]["options"]
        if what == name if how == "byName" else re.search(what.strip("/"), name):
            return next(NAMED[one["value"]["fixedColor"]] for one in override["properties"] if one["id"] == "color")
    return None


def _step(highest: float) -> float:
    """A round distance of grid lines: four or five of them up to `highest`."""
    rough = highest / 4
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
