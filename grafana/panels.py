"""How panels look, so that dashboards are lists of questions: title, what it tells, queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as parts
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

THRESHOLDS = Path(__file__).resolve().parent.parent / "prometheus" / "rules" / "thresholds.yml"
SOURCE = parts.DataSourceRef(type_val="prometheus", uid="servekit-prometheus")
THRESHOLD = "threshold"
"""Legend of a line from prometheus/rules/thresholds.yml: drawn red and dashed."""

BY_LABEL = {"stable": "blue", "canary": "orange"}
"""Colours of series whose legend begins with the label, on every panel."""

Steps = Sequence[tuple[float | None, str]]
"""(from, colour), ascending; the first from None."""

_Panel = TypeVar("_Panel", stat.Panel, table.Panel, timeseries.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the legend's text with labels as {{label}}."""

    expression: str
    legend: str


def threshold(name: str) -> float:
    """The number at which the alert fires."""
    groups = yaml.safe_load(THRESHOLDS.read_text())["groups"]
    expressions = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}
    return float(expressions[f"servekit:threshold:{name}"].removeprefix("vector(").removesuffix(")"))


def new_dashboard(uid: str, title: str, description: str) -> dashboard.Dashboard:
    made = dashboard.Dashboard(title).uid(uid).description(description).tags(["servekit"]).readonly()
    made = made.time("now-30m", "now").refresh("10s").timezone("browser")
    return made.tooltip(parts.DashboardCursorSync.CROSSHAIR)


def choice(name: str, label: str, query: str, default: str | None = None) -> dashboard.QueryVariable:
    """One of the values of a label; empty ones, which unreadable requests have, are left out."""
    made = dashboard.QueryVariable(name).label(label).query(query).datasource(SOURCE).regex("/.+/")
    made = made.refresh(parts.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(parts.VariableSort.ALPHABETICAL_ASC)
    if default is None:
        return made
    return made.current(parts.VariableOption(selected=True, text=default, value=default))


def several(one: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """Any of the values, or all."""
    everything = parts.VariableOption(selected=True, text="All", value="$__all")
    return one.multi(True).include_all(True).all_value(".+").current(everything)


def marks(name: str, tag: str) -> dashboard.AnnotationQuery:
    """Grafana's own annotations with this tag, which servekit.analysis.annotate writes."""
    grafana = parts.DataSourceRef(type_val="grafana", uid="-- Grafana --")
    target = dashboard.AnnotationTarget().limit(100).match_any(False).tags([tag]).type("tags")
    made = dashboard.AnnotationQuery().name(name).datasource(grafana).enable(True).icon_color("purple")
    return made.target(target)  # type: ignore[arg-type]  # the SDK's annotation asks for a query's builder here


def lines(
    title: str, tells: str, unit: str, queries: Sequence[Query], *, span: int = 12, empty: str = "nothing yet"
) -> timeseries.Panel:
    """Curves over time. `unit` is Grafana's: reqps, s, percentunit, bytes, short. `empty` is shown without data."""
    panel = _asking(timeseries.Panel(), title, tells, queries).unit(unit).height(8).span(span).no_value(empty)
    panel = panel.line_width(2).fill_opacity(8).min(0).show_points(looks.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST).show_legend(True)
    panel = panel.legend(legend.placement(looks.LegendPlacement.BOTTOM))
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI)
    panel = panel.tooltip(tooltip.sort(looks.SortOrder.DESCENDING))
    for name, colour in BY_LABEL.items():
        panel = panel.override_by_regexp(f"/^{name} /", [_fixed(colour)])
    if any(query.legend == THRESHOLD for query in queries):
        panel = panel.override_by_name(THRESHOLD, _threshold_line())
    return panel


def number(
    title: str,
    tells: str,
    unit: str,
    query: Query,
    steps: Steps,
    *,
    empty: str = "none",
    named: bool = False,
    ratio: bool = False,
) -> stat.Panel:
    """The value of now; with `named` the legend is shown instead. Without a unit it is a count, or else a `ratio`."""
    panel = _asking(stat.Panel(), title, tells, [query], instant=True).unit(unit).height(4).span(4).no_value(empty)
    panel = panel.graph_mode(looks.BigValueGraphMode.NONE).color_mode(looks.BigValueColorMode.VALUE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if unit == "short" and not ratio:
        panel = panel.decimals(0)
    if named:
        panel = panel.text_mode(looks.BigValueTextMode.NAME)
    colours = [parts.Threshold(value=start, color=colour) for start, colour in steps]
    thresholds = dashboard.ThresholdsConfig().mode(parts.ThresholdsMode.ABSOLUTE).steps(colours)
    panel = panel.color_scheme(dashboard.FieldColor().mode(parts.FieldColorModeId.THRESHOLDS))
    return panel.thresholds(thresholds)


def rows(
    title: str,
    tells: str,
    expression: str,
    columns: Sequence[str],
    *,
    value: str | None = None,
    unit: str = "short",
    span: int = 12,
    empty: str = "none",
) -> table.Panel:
    """A table of now: a line for each series, labels as columns in this order, then its value, named `value`."""
    query = Query(expression, "")
    panel = _asking(table.Panel(), title, tells, [query], instant=True, as_table=True)
    organize = {
        "excludeByName": {"Time": True} | ({} if value else {"Value": True}),
        "indexByName": {column: place for place, column in enumerate([*columns, "Value"])},
        "renameByName": {"Value": value} if value else {},
    }
    panel = panel.with_transformation(parts.DataTransformerConfig(id_val="organize", options=organize))
    return panel.unit(unit).height(6).span(span).no_value(empty)


def words(markdown: str) -> text.Panel:
    return text.Panel().content(markdown).height(2).span(24).transparent(True)


def _asking(
    panel: _Panel,
    title: str,
    tells: str,
    queries: Sequence[Query],
    *,
    instant: bool = False,
    as_table: bool = False,
) -> _Panel:
    targets: list[Builder[Dataquery]] = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expression)
        target = target.legend_format(query.legend) if query.legend else target
        target = target.instant() if instant else target.range()
        targets.append(target.format(PromQueryFormat.TABLE) if as_table else target)
    return panel.title(title).description(tells).datasource(SOURCE).targets(targets)


def _threshold_line() -> list[parts.DynamicConfigValue]:
    properties = {
        "custom.lineStyle": {"fill": "dash", "dash": [8, 8]},
        "custom.fillOpacity": 0,
        "custom.lineWidth": 1,
    }
    return [_fixed("red"), *(parts.DynamicConfigValue(id_val=name, value=value) for name, value in properties.items())]


def _fixed(colour: str) -> parts.DynamicConfigValue:
    return parts.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
