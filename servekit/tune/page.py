"""What a tuning found, as a document and as a page with its frontier. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from servekit.bench import svg
from servekit.bench.plot import figures_of, page, table
from servekit.tune.run import Fought, Result
from servekit.tune.setting import Setting, Value, shown

SCHEMA = 1


def document(result: Result, about: Mapping[str, Any]) -> dict[str, Any]:
    """`about`: model, machine, date, command, goal. Readers check `schema`."""
    return {
        "schema": SCHEMA,
        **about,
        "complete": result.complete,
        "changes": result.changes,
        "settings": {"current": _values(result.current), "winner": _values(result.winner)},
        "confirmed": {name: one.document() for name, one in result.figures.items()},
        "ratios": {to: {"median": result.ratio(to), "pairs": _rounded(ratios)} for to, ratios in result.ratios.items()},
        "tried": [_tried(one) for one in result.fought],
        "levels": [{"setting": one.name, "clients": one.clients, **asdict(one.figures)} for one in result.levels],
    }


def page_of(found: Mapping[str, Any]) -> str:
    """HTML that needs nothing from elsewhere: how p99 grows with what is answered, and all that was tried."""
    names = {"current": "before", "winner": "winner"} if found["changes"] else {"current": "as it is"}
    levels: dict[str, list[tuple[float, float]]] = {name: [] for name in names.values()}
    pace: dict[str, list[tuple[float, float]]] = {name: [] for name in names.values()}
    for one in found["levels"]:
        if one["setting"] in names and one["p99_ms"] is not None:
            levels[names[one["setting"]]].append((one["per_second"], one["p99_ms"]))
            pace[names[one["setting"]]].append((one["clients"], one["per_second"]))
    tried = [
        (one["challenger"]["per_second"], one["challenger"]["p99_ms"])
        for one in found["tried"]
        if one["challenger"] and one["challenger"]["p99_ms"] is not None
    ]
    clients = found["goal"]["clients"]
    lines: list[svg.Line] = list(levels.items())
    slo = found["goal"]["slo_p99_ms"]
    drawings = [
        svg.lines(
            f"frontier: p99, ms; dots: each setting tried, {clients} clients",
            "answers a second",
            lines,
            dots=tried,
            limit=("objective", slo) if slo else None,
        ),
        svg.lines("answers a second", "clients", list(pace.items())),
    ]
    machine = found["machine"]
    title = html.escape(f"servekit tune {found['model']}")
    about = html.escape(f"{found['date']}, {machine['cpu']}, {machine['cores']} cores, engine {found['engine']}")
    parts = [
        f"<h1>{title}</h1><p>{about}<br><code>{html.escape(found['command'])}</code></p>",
        f"<p>{html.escape(conclusion(found))}</p>",
        *figures_of(drawings),
        _confirmed(found["confirmed"]),
        f"<h2>Tried, {clients} clients</h2>",
        _table_of_tried(found["tried"]),
    ]
    return page(f"servekit tune {found['model']}", *parts)


def conclusion(found: Mapping[str, Any]) -> str:
    """One sentence or two for the terminal, the page and the comment."""
    ratios, figures = found["ratios"], found["confirmed"]
    now, then = figures["winner" if found["changes"] else "current"], figures["unbatched"]
    clients = found["goal"]["clients"]
    against = now["per_second"] / then["per_second"] if then["per_second"] else 0.0
    what = f"{now['per_second']:.1f}/s, p99 {now['p99_ms'] or 0:.0f} ms with {clients} clients"
    if found["changes"]:
        return (
            f"{shown(found['changes'])}: {what}; {ratios['current']['median']:.2f} times what was there, "
            f"{ratios['unbatched']['median']:.2f} times TensorFlow Serving's own defaults without batching"
        )
    return (
        f"what is there stays: nothing tried was more than 3 % better; {what}, {against:.2f} times TensorFlow "
        "Serving's own defaults without batching"
    )


def _confirmed(figures: Mapping[str, Any]) -> str:
    names = {"unbatched": "TensorFlow Serving's own defaults, unbatched", "current": "before", "winner": "winner"}
    heads = ("setting", "per second", "p50 ms", "p99 ms", "server CPU ms an answer")
    rows = [
        (names[name], *(_number(figures[name][key]) for key in ("per_second", "p50_ms", "p99_ms", "cpu_ms")))
        for name in names
    ]
    return "<h2>Confirmed, in turn</h2>" + table(heads, rows)


def _table_of_tried(tried: Sequence[Mapping[str, Any]]) -> str:
    heads = ("change of the best so far", "ratio", "per second", "p99 ms", "kept")
    rows = []
    for one in tried:
        challenger = one["challenger"] or {}
        kept = one["failed"] or ("yes" if one["won"] else "no")
        rows.append(
            (one["change"], _number(one["ratio"], 2), _number(challenger.get("per_second")),
             _number(challenger.get("p99_ms")), kept)
        )  # fmt: skip
    return table(heads, rows)


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _tried(one: Fought) -> dict[str, Any]:
    return {
        "axis": one.duel.axis,
        "change": shown(one.duel.challenger.differences(one.duel.champion)),
        "won": one.won,
        "ratio": one.ratio,
        "failed": one.failed,
        "challenger": one.challenger.document() if one.challenger else None,
        "champion": one.champion.document() if one.champion else None,
    }


def _values(setting: Setting) -> dict[str, Value]:
    return dict(setting.items())


def _rounded(ratios: Sequence[float]) -> list[float]:
    return [round(ratio, 3) for ratio in ratios]
