"""A page with the plots of a measurement; it needs nothing from elsewhere. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from servekit.bench import svg

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; color: #222; }
figure { display: inline-block; margin: 0 1em 1em 0; }
table { border-collapse: collapse; } td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } code { background: #f4f4f4; padding: .1em .3em; }
"""


def page_of(document: Mapping[str, Any]) -> str:
    """HTML with the rate and the latency at each level, and a table of all figures."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for run in document["runs"]:
        lines.setdefault(f"{run['protocol']} {run['target']}".strip(), []).append(run)
    level = "clients" if document["runs"][0]["loop"] == "closed" else "requests a second asked for"
    figures = [
        svg.lines("answers a second", level, [(name, _points(runs, "per_second")) for name, runs in lines.items()])
    ]
    for percentile, title in (("p50", "p50 latency, ms"), ("p99", "p99 latency, ms")):
        figures.append(svg.lines(title, level, [(name, _points(runs, percentile)) for name, runs in lines.items()]))
    machine = document["machine"]
    about = f"{document['date']}, {machine['cpu']}, {machine['cores']} cores"
    title = f"servekit bench {document['model']}"
    return page(
        title,
        f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}<br><code>{html.escape(document['command'])}</code></p>",
        *figures_of(figures),
        _table(document["runs"]),
        "<p>Latencies are of good answers only; none is told where too many requests failed.</p>",
    )


def page(title: str, *parts: str) -> str:
    """A whole HTML document; `parts` are HTML."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>\n'


def figures_of(drawings: Sequence[str]) -> list[str]:
    return [f"<figure>{drawing}</figure>" for drawing in drawings]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of plain texts."""
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>{''.join(lines)}</table>"


def _points(runs: Sequence[Mapping[str, Any]], figure: str) -> list[tuple[float, float]]:
    found = [(run["level"], run[figure] if figure in run else (run["latency_ms"] or {}).get(figure)) for run in runs]
    return [(level, value) for level, value in found if value is not None]


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
        rows.append(cells)
    return table(heads, rows)
