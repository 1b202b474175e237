"""The overview dashboard: is it up, who asks, how fast, how full, what is loaded."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, table, timeseries

from grafana.panels import THRESHOLD, Query, choice, lines, new_dashboard, number, rows, several, threshold

_SERVING = ":tensorflow:serving:"
_BATCHING = f"{_SERVING}batching_session:"
_LOAD = ":tensorflow:cc:saved_model:load"
_MODEL = 'model_name=~"$model"'
_UNTOLD = "unknown: servekit exporter tells it"
_TOLD = "Told by the embedded server; for TensorFlow Serving by servekit exporter."
_RATE = "$__rate_interval"

_Panels = list[stat.Panel | table.Panel | timeseries.Panel]


def overview() -> dashboard.Dashboard:
    made = new_dashboard("servekit-overview", "Model serving", "Traffic, errors, latency, batching, loads, memory.")
    models = choice("model", "Model", f"label_values({_SERVING}request_count, model_name)")
    made = made.with_variable(several(models))
    rows_of_panels: dict[str, _Panels] = {
        "": [*_now(), *_state()],
        "Traffic and errors": _traffic(),
        "Latency": _latency(),
        "Batching": _batching(),
        "Loads and resources": [*_loads(), *_resources()],
    }
    for title, panels in rows_of_panels.items():
        made = made.with_row(dashboard.Row(title)) if title else made
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _now() -> _Panels:
    requests = f"sum(servekit:requests:rate5m{{{_MODEL}}})"
    return [
        number(
            "Model server up",
            "Whether Prometheus can read its metrics page.",
            "bool_yes_no",
            Query('min(up{job="tensorflow-serving"})', "up"),
            [(None, "red"), (1, "green")],
            empty="no target",
        ),
        number(
            "Versions AVAILABLE",
            "Of all models. " + _TOLD,
            "short",
            Query("count(count by (model, version) (servekit_version_available))", "versions"),
            [(None, "green")],
            empty="unknown",
        ),
        number(
            "Predictions",
            "Each second over five minutes, failures too, without status polls.",
            "reqps",
            Query(requests, "predictions"),
            [(None, "text")],
        ),
        number(
            "Failed predictions",
            "Share that failed on the server's side in five minutes.",
            "percentunit",
            Query(f'sum(servekit:errors:rate5m{{fault="server",{_MODEL}}}) / {requests} or vector(0)', "failed"),
            [(None, "green"), (threshold("error_ratio"), "red")],
        ),
        number(
            "p99 latency",
            "Of the slowest model, over five minutes; successful predictions only.",
            "s",
            Query(f"max(servekit:latency_seconds:p99_5m{{{_MODEL}}})", "p99"),
            [(None, "green"), (threshold("latency_seconds"), "red")],
        ),
        number(
            "Alerts firing",
            "docs/monitoring.md says what to do about each.",
            "short",
            Query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),
            [(None, "green"), (1, "red")],
        ),
    ]


def _state() -> _Panels:
    alerts = "alertname, severity, model, model_name, model_path, version, label, job"
    return [
        rows(
            "Firing alerts",
            "docs/monitoring.md says what to do about each.",
            f'max by ({alerts}) (ALERTS{{alertstate="firing"}})',
            ["alertname", "severity"],
        ),
        rows(
            "Versions",
            "State of each version, and the error it ended with. " + _TOLD,
            "max by (model, version, state, code) (servekit_version_state)",
            ["model", "version", "state", "code"],
            span=7,
            empty=_UNTOLD,
        ),
        rows(
            "Labels",
            "The version that answers under each label. " + _TOLD,
            "max by (model, label, version) (servekit_version_label)",
            ["model", "label", "version"],
            span=5,
            empty=_UNTOLD,
        ),
    ]


def _traffic() -> _Panels:
    answered = f'{_SERVING}request_latency_count{{API!="",{_MODEL}}}'
    failed = f'{_SERVING}request_count{{status!="OK",{_MODEL}}}'
    return [
        lines(
            "Predictions that went well",
            "By model and protocol. Status polls are not in it.",
            "reqps",
            [Query(f"sum by (model_name, entrypoint) (rate({answered}[{_RATE}]))", "{{model_name}} {{entrypoint}}")],
            span=8,
        ),
        lines(
            "Errors by status",
            "Every request that failed, status polls too. UNAVAILABLE: the batch queue was full.",
            "reqps",
            [Query(f"sum by (model_name, status) (rate({failed}[{_RATE}]))", "{{model_name}} {{status}}")],
            span=8,
            empty="no errors",
        ),
        lines(
            "Share of failed predictions",
            "By whose fault. The alert HighErrorRate fires above the line for the server's.",
            "percentunit",
            [
                Query(f"servekit:error_ratio:rate5m{{{_MODEL}}}", "{{model_name}} server's"),
                Query(f"servekit:rejected_ratio:rate5m{{{_MODEL}}}", "{{model_name}} client's"),
                Query("servekit:threshold:error_ratio", THRESHOLD),
            ],
            span=8,
            empty="no errors",
        ),
    ]


def _latency() -> _Panels:
    answered = f'{_SERVING}request_latency_bucket{{API!="",{_MODEL}}}'
    inside = f"{_SERVING}runtime_latency_bucket{{{_MODEL}}}"
    return [
        lines(
            "Latency",
            "From the request's arrival to its answer, successes only; buckets grow by 1.8.",
            "s",
            [
                *(Query(_quantile(q, "model_name", answered), f"p{q} {{{{model_name}}}}") for q in (50, 95, 99)),
                Query("servekit:threshold:latency_seconds", THRESHOLD),
            ],
        ),
        lines(
            "Time in the model",
            "The part of it that TensorFlow computes; with batching the wait for a batch too.",
            "s",
            [Query(_quantile(q, "model_name", inside), f"p{q} {{{{model_name}}}}") for q in (50, 95, 99)],
        ),
    ]


def _batching() -> _Panels:
    waiting = f"{_BATCHING}queuing_latency_bucket"
    return [
        lines(
            "Queueing time",
            "How long requests wait for a batch.",
            "s",
            [
                *(Query(_quantile(q, "job", waiting), f"p{q}") for q in (50, 95, 99)),
                Query("servekit:threshold:queueing_seconds", THRESHOLD),
            ],
            span=8,
            empty="batching is off, or no traffic",
        ),
        lines(
            "Batch size",
            "Mean rows of a request, and of a batch as it ran, padding included. Equal: nothing is run together.",
            "short",
            [
                Query(_mean(f"{_BATCHING}input_batch_size"), "rows of a request"),
                Query(_mean(f"{_BATCHING}processed_batch_size"), "rows of a batch"),
            ],
            span=8,
            empty="batching is off, or no traffic",
        ),
        lines(
            "Batches",
            "Runs of the model each second, all models.",
            "ops",
            [Query(f"sum(rate({_BATCHING}wrapped_run_count[{_RATE}]))", "batches")],
            span=8,
            empty="batching is off, or no traffic",
        ),
    ]


def _loads() -> _Panels:
    attempts = f"sum by (model_path, status) ({_LOAD}_attempt_count)"
    seconds = f"sum by (model_path) ({_LOAD}_latency) / sum by (model_path) ({_LOAD}_attempt_count) / 1e6"
    return [
        rows(
            "Loads",
            "Attempts to load a version since the server started; fail: the server's log says why.",
            attempts,
            ["model_path", "status"],
            value="attempts",
        ),
        rows(
            "Time of a load",
            "Mean of the attempts, without warmup.",
            seconds,
            ["model_path"],
            value="time",
            unit="s",
        ),
    ]


def _resources() -> _Panels:
    return [
        lines(
            "Memory",
            "Resident memory of the server and its limit. " + _TOLD,
            "bytes",
            [
                Query("max(servekit_server_resident_memory_bytes)", "resident"),
                Query("max(servekit_server_memory_limit_bytes)", "limit"),
            ],
            span=8,
            empty=_UNTOLD,
        ),
        lines(
            "Processor",
            "Cores in use. " + _TOLD,
            "short",
            [Query(f"max(rate(servekit_server_cpu_seconds_total[{_RATE}]))", "cores")],
            span=8,
            empty=_UNTOLD,
        ),
        lines(
            "Restarts",
            "Within 15 minutes, seen in TensorFlow Serving's own counters of loads.",
            "short",
            [Query("max by (instance) (servekit:restarts:changes15m)", "{{instance}}")],
            span=8,
        ),
    ]


def _quantile(percent: int, by: str, buckets: str) -> str:
    """In seconds, of a histogram in microseconds."""
    return f"histogram_quantile({percent / 100:g}, sum by (le, {by}) (rate({buckets}[{_RATE}]))) / 1e6"


def _mean(histogram: str) -> str:
    return f"sum(rate({histogram}_sum[{_RATE}])) / sum(rate({histogram}_count[{_RATE}]))"
