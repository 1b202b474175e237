"""The canary dashboard: what the version behind one label does beside the version behind another."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, table, timeseries

from grafana.panels import Query, choice, lines, new_dashboard, number, rows, words

_BOTH = '{model="$model",label=~"$stable|$canary"}'
_STABLE = '{model="$model",label="$stable"}'
_CANARY = '{model="$model",label="$canary"}'
_SAME = "on (model)"
_LEGEND = "{{label}} (version {{version}})"

_Panels = list[stat.Panel | table.Panel | timeseries.Panel]


def canary() -> dashboard.Dashboard:
    made = new_dashboard("servekit-canary", "Canary", "Requests, errors and latency of two labels of one model.")
    made = made.with_variable(choice("model", "Model", "label_values(servekit_version_label, model)"))
    labels = 'label_values(servekit_version_label{model="$model"}, label)'
    made = made.with_variable(choice("stable", "Stable label", labels, "stable"))
    made = made.with_variable(choice("canary", "Canary label", labels, "canary"))
    made = made.with_panel(
        words(
            "Figures of a label are those of the **version that it means now**, however a request asked for it: by "
            "this label, another one, its number, or none. The embedded server counts by version. TensorFlow Serving "
            "does not: with it only the labels themselves are known here until a gateway counts."
        )
    )
    for panel in [*_now(), *_curves(), *_tables()]:
        made = made.with_panel(panel)
    return made


def _now() -> _Panels:
    requests = "servekit:label_requests:rate2m"
    counted = "sum by (model, version) (increase(servekit_requests_total[10m]))"
    p99 = "servekit:label_latency_seconds:p99_2m"
    return [
        number(
            "Stable is version",
            "What the stable label means on the server.",
            "short",
            Query(f"servekit:label_version:info{_STABLE}", "{{version}}"),
            [(None, "blue")],
            named=True,
        ),
        number(
            "Canary is version",
            "What the canary label means on the server.",
            "short",
            Query(f"servekit:label_version:info{_CANARY}", "{{version}}"),
            [(None, "orange")],
            named=True,
        ),
        number(
            "Share of the canary",
            "Of the requests for both, over two minutes.",
            "percentunit",
            Query(f"sum({requests}{_CANARY}) / sum({requests}{_BOTH})", "share"),
            [(None, "text")],
            empty="no traffic",
        ),
        number(
            "Requests of the canary",
            "In ten minutes. Below a hundred the figures beside it say little.",
            "short",
            Query(f"servekit:label_version:info{_CANARY} * on (model, version) group_left () {counted}", "requests"),
            [(None, "orange"), (100, "green")],
            empty="no traffic",
        ),
        number(
            "Failed, canary",
            "Share of its requests that failed, over two minutes.",
            "percentunit",
            Query(f"servekit:label_error_ratio:rate2m{_CANARY}", "failed"),
            [(None, "green"), (0.01, "red")],
            empty="no traffic",
        ),
        number(
            "p99, canary to stable",
            "Above 1 the canary is slower. Buckets grow by 1.4: a ratio below 1.2 may be chance.",
            "short",
            Query(f"sum by (model) ({p99}{_CANARY}) / {_SAME} sum by (model) ({p99}{_STABLE})", "ratio"),
            [(None, "green"), (1.2, "red")],
            empty="no traffic",
            ratio=True,
        ),
    ]


def _curves() -> _Panels:
    failed = 'servekit_requests_total{model="$model",version!="",code!="OK"}'
    size = 'servekit_batch_size%s{model="$model"}'
    return [
        lines(
            "Requests",
            "By label, failures too, over two minutes.",
            "reqps",
            [Query(f"servekit:label_requests:rate2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "Share of failed requests",
            "By label: everything that was not OK, a client's mistakes too, which hit both alike.",
            "percentunit",
            [Query(f"servekit:label_error_ratio:rate2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "p50 latency",
            "Half of the successful requests took less.",
            "s",
            [Query(f"servekit:label_latency_seconds:p50_2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "p99 latency",
            "One in a hundred of the successful requests took longer.",
            "s",
            [Query(f"servekit:label_latency_seconds:p99_2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "Errors by version and code",
            "What failed how; without requests that found no version, such as for a label that does not exist.",
            "reqps",
            [Query(f"sum by (version, code) (rate({failed}[$__rate_interval]))", "version {{version}} {{code}}")],
            empty="no errors",
        ),
        lines(
            "Batch size by version",
            "Mean rows without padding; a canary with little traffic runs in small batches.",
            "short",
            [
                Query(
                    f"sum by (version) (rate({size % '_sum'}[$__rate_interval]))"
                    f" / sum by (version) (rate({size % '_count'}[$__rate_interval]))",
                    "version {{version}}",
                )
            ],
            empty="batching is off, or no traffic",
        ),
    ]


def _tables() -> _Panels:
    return [
        rows(
            "Labels as configured",
            "By models.config, from servekit exporter.",
            'max by (label, version) (servekit_label_configured{model="$model"})',
            ["label", "version"],
            span=8,
            empty="told by servekit exporter",
        ),
        rows(
            "Labels as served",
            "What answers. It differs while a change is under way, or when the server refused it (LabelNotServed).",
            'max by (label, version) (servekit_version_label{model="$model"})',
            ["label", "version"],
            span=8,
        ),
        rows(
            "Versions",
            "State of each version of this model.",
            'max by (version, state) (servekit_version_state{model="$model"})',
            ["version", "state"],
            span=8,
        ),
    ]
