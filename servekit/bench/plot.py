"""A page with the plots of a measurement; it needs nothing from elsewhere. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 280, 64, 44, 30

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; color: #222; }
figure { display: inline-block; margin: 0 1em 1em 0; } svg text { font: 12px system-ui, sans-serif; fill: #333; }
table { border-collapse: collapse; } td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } code { background: #f4f4f4; padding: .1em .3em; }
"""

Line = tuple[str, Sequence[tuple[float, float]]]


def page_of(document: Mapping[str, Any]) -> str:
    """HTML with the rate and the latency at each level, and a table of all figures."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for run in document["runs"]:
        lines.setdefault(f"{run['protocol']} {run['target']}".strip(), []).append(run)
    level = "clients" if document["runs"][0]["loop"] == "closed" else "requests a second asked for"
    figures = [
        _figure("answers a second", level, [(name, _points(runs, "per_second")) for name, runs in lines.items()])
    ]
    for percentile, title in (("p50", "p50 latency, ms"), ("p99", "p99 latency, ms")):
        figures.append(_figure(title, level, [(name, _points(runs, percentile)) for name, runs in lines.items()]))
    machine = document["machine"]
    about = f"{document['date']}, {machine['cpu']}, {machine['cores']} cores"
    title = html.escape(f"servekit bench {document['model']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(about)}<br><code>{html.escape(document['command'])}</code></p>"
        f"{''.join(figures)}{_table(document['runs'])}"
        "<p>Latencies are of good answers only; none is told where too many requests failed.</p></html>\n"
    )


def _points(runs: Sequence[Mapping[str, Any]], figure: str) -> list[tuple[float, float]]:
    found = [(run["level"], run[figure] if figure in run else (run["latency_ms"] or {}).get(figure)) for run in runs]
    return [(level, value) for level, value in found if value is not None]


def _figure(title: str, x_title: str, lines: Sequence[Line]) -> str:
    points = [point for _, line in lines for point in line]
    if not points:
        return f"<figure><figcaption>{html.escape(title)}: none could be told</figcaption></figure>"
    right, top = max(x for x, _ in points) or 1.0, _round_up(max(y for _, y in points))

    def place(x: float, y: float) -> str:
        return f"{_LEFT + x / right * (_WIDTH - _LEFT - 20):.1f},{_HEIGHT - _BOTTOM - y / top * _room():.1f}"

    parts = [f'<text x="{_LEFT}" y="18" font-weight="bold">{html.escape(title)}</text>']
    for tick in range(5):
        y = _HEIGHT - _BOTTOM - tick / 4 * _room()
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{top * tick / 4:g}</text>')
    for x in sorted({x for x, _ in points}):
        at = place(x, 0).split(",")[0]
        parts.append(f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_title)}</text>'
    )
    for number, (name, line) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in line:
            cx, cy = place(x, y).split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="3.5" fill="{colour}"/>')
        parts.append(f'<rect x="{_LEFT + 8}" y="{_TOP + 4 + 17 * number}" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 25}" y="{_TOP + 14 + 17 * number}">{html.escape(name)}</text>')
    return f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img">{"".join(parts)}</svg></figure>'


def _room() -> int:
    return _HEIGHT - _BOTTOM - _TOP


def _round_up(value: float) -> float:
    """To 1, 2, 2.5 or 5 times a power of ten, with room for the legend."""
    value = max(value * 1.25, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    heads = ("load", "per second", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "client cores", "server cores")
    rows = []
    for run in runs:
        latency = run["latency_ms"] or {}
        load = f"{run['protocol']} {run['target']}".strip() + f", {run['level']:g}"
        cells = [load, f"{run['per_second']:.1f}"]
        cells += [f"{latency[name]:.1f}" if latency else "–" for name in ("p50", "p90", "p99", "p99_9", "max")]
        cells += [str(sum(run["errors"].values())), f"{run['client_cpu']:.2f}"]
        cells.append("?" if run["server_cpu"] is None else f"{run['server_cpu']:.2f}")
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"
