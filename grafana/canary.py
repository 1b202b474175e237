"""The canary dashboard: a roll-out as it goes on, and one label beside another."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, table, timeseries

from grafana.panels import THRESHOLD, Query, choice, lines, marks, new_dashboard, number, rows, words

_MODEL = '{model="$model"}'
_BOTH = '{model="$model",label=~"$stable|$canary"}'
_STABLE = '{model="$model",label="$stable"}'
_CANARY = '{model="$model",label="$canary"}'
_SAME = "on (model)"
_LEGEND = "{{label}} (version {{version}})"

_Panels = list[stat.Panel | table.Panel | timeseries.Panel]


def canary() -> dashboard.Dashboard:
    made = new_dashboard("servekit-canary", "Canary", "A roll-out as it goes on, and one label beside another.")
    made = made.annotation(marks("Promotions and rollbacks", "servekit"))
    made = made.with_variable(choice("model", "Model", "label_values(servekit_version_label, model)"))
    labels = 'label_values(servekit_version_label{model="$model"}, label)'
    made = made.with_variable(choice("stable", "Stable label", labels, "stable"))
    made = made.with_variable(choice("canary", "Canary label", labels, "canary"))
    made = made.with_panel(
        words(
            "Figures of a label are what the **gateway** counts. Without one they are those of the version that the "
            "label means, which the embedded server counts and TensorFlow Serving does not. Phase, weights and "
            "verdicts are the **controller's**."
        )
    )
    for panel in [*_roll_out(), *_now(), *_curves(), *_tables()]:
        made = made.with_panel(panel)
    return made


def _roll_out() -> _Panels:
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
            "Phase",
            "None, manual (people move the weight), analysing, or paused.",
            "short",
            Query(f"servekit_canary_phase{_MODEL} == 1", "{{phase}}"),
            [(None, "text")],
            empty="no controller",
            named=True,
        ),
        number(
            "Last verdict",
            "Of all checks: any that fails is fail, otherwise any without data waits.",
            "short",
            Query('servekit:canary_verdict:info{model="$model",check="all"}', "{{verdict}}"),
            [(None, "text")],
            empty="none yet",
            named=True,
        ),
        number(
            "Failed checks",
            "So far, of this canary. At the threshold it is rolled back.",
            "short",
            Query(f"servekit_canary_failed_checks{_MODEL}", "failed"),
            [(None, "green"), (1, "orange")],
            empty="no analysis",
        ),
        number(
            "Controller's errors",
            "In ten minutes: serving.yaml refused, files not written, a server or gateway that is gone.",
            "short",
            Query("sum(increase(servekit_rollout_errors_total[10m]))", "errors"),
            [(None, "green"), (0.5, "red")],
            empty="no controller",
        ),
    ]


def _now() -> _Panels:
    requests = "servekit:label_requests:rate2m"
    inference = 'traffic="client",method=~"predict|classify|regress|multi_inference"'
    at_gateway = f'increase(envoy_servekit_requests_total{{model="$model",label="$canary",{inference}}}[10m])'
    version = f"servekit:label_version:info{_CANARY} * on (model, version) group_left ()"
    of_version = f"{version} sum by (model, version) (increase(servekit_requests_total[10m]))"
    p99 = "servekit:label_latency_seconds:p99_2m"
    return [
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
            Query(f"sum by (model) ({at_gateway}) or sum by (model) ({of_version})", "requests"),
            [(None, "orange"), (100, "green")],
            empty="no traffic",
        ),
        number(
            "Failed, canary",
            "Share of its requests that failed by the server's or the model's fault, over two minutes.",
            "percentunit",
            Query(f"servekit:label_error_ratio:rate2m{_CANARY}", "failed"),
            [(None, "green"), (0.01, "red")],
            empty="no traffic",
        ),
        number(
            "Rejected, canary",
            "Share of its requests that were refused as the client's mistake. Above stable's: it takes other inputs.",
            "percentunit",
            Query(f"servekit:label_rejected_ratio:rate2m{_CANARY}", "rejected"),
            [(None, "green"), (0.1, "orange")],
            empty="no traffic",
        ),
        number(
            "p99, canary to stable",
            "Above 1 the canary is slower. Buckets grow by 1.25 (without a gateway 1.4): 1.2 may be chance.",
            "short",
            Query(f"sum by (model) ({p99}{_CANARY}) / {_SAME} sum by (model) ({p99}{_STABLE})", "ratio"),
            [(None, "green"), (1.2, "red")],
            empty="no traffic",
            ratio=True,
        ),
        number(
            "Mirrored copies",
            "Copies of stable's requests that the canary answered for nobody.",
            "reqps",
            Query(f"sum(servekit:label_copies:rate2m{_CANARY})", "copies"),
            [(None, "text")],
            empty="no copies",
        ),
    ]


def _curves() -> _Panels:
    return [
        lines(
            "Weight of the canary",
            "Share of unlabelled requests: as serving.yaml wants it, and as the gateway gives it.",
            "percentunit",
            [Query(f"servekit_canary_weight{_MODEL} / 100", "{{side}}")],
            empty="no controller",
        ),
        lines(
            "Requests",
            "By label, failures too, over two minutes.",
            "reqps",
            [Query(f"servekit:label_requests:rate2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "Share of failed requests",
            "By label: what is the server's, the model's or the operator's fault, as in HighErrorRate.",
            "percentunit",
            [Query(f"servekit:label_error_ratio:rate2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "p99 latency",
            "One in a hundred took longer: at the gateway of all requests, otherwise of the successful ones.",
            "s",
            [Query(f"servekit:label_latency_seconds:p99_2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "Failed checks against threshold",
            "At the threshold the canary is rolled back.",
            "short",
            [
                Query(f"servekit_canary_failed_checks{_MODEL}", "failed checks"),
                Query(f"servekit_canary_failed_checks_threshold{_MODEL}", THRESHOLD),
            ],
            empty="no analysis",
        ),
        lines(
            "p50 latency",
            "Half took less.",
            "s",
            [Query(f"servekit:label_latency_seconds:p50_2m{_BOTH}", _LEGEND)],
        ),
        lines(
            "Failures by status and label",
            "At the gateway: HTTP's number for REST, gRPC's name; a client's mistakes too.",
            "reqps",
            [Query('servekit:gateway_answers:rate2m{model="$model",fault!="none"}', "{{status}} from {{label}}")],
            empty="no failures, or no gateway",
        ),
        lines(
            "Batch size by version",
            "Mean rows without padding; a canary with little traffic runs in small batches.",
            "short",
            [
                Query(
                    f"sum by (version) (rate(servekit_batch_size_sum{_MODEL}[$__rate_interval]))"
                    f" / sum by (version) (rate(servekit_batch_size_count{_MODEL}[$__rate_interval]))",
                    "version {{version}}",
                )
            ],
            empty="batching is off, no traffic, or not the embedded server",
        ),
    ]


def _tables() -> _Panels:
    measured = f"servekit_canary_check_value{_MODEL}"
    verdict = 'servekit:canary_verdict:info{model="$model",check!="all"}'
    return [
        rows(
            "Last verdict by check",
            "What each check measured last; docs/analysis.md has their bounds and units.",
            f"max by (check, verdict) ({measured} * on (model, check) group_left (verdict) {verdict})",
            ["check", "verdict"],
            value="measured",
            empty="none yet",
        ),
        rows(
            "Labels, desired and actual",
            "Versions by serving.yaml and on the server. They differ for longer: RolloutStuck.",
            f"max by (label, side) (servekit_rollout_label_version{_MODEL})",
            ["label", "side"],
            value="version",
            empty="no controller",
        ),
        rows(
            "Labels as configured",
            "By models.config, from servekit exporter.",
            f"max by (label, version) (servekit_label_configured{_MODEL})",
            ["label", "version"],
            span=8,
            empty="told by servekit exporter",
        ),
        rows(
            "Labels as served",
            "What answers. It differs while a change is under way, or when the server refused it (LabelNotServed).",
            f"max by (label, version) (servekit_version_label{_MODEL})",
            ["label", "version"],
            span=8,
        ),
        rows(
            "Versions",
            "State of each version of this model.",
            f"max by (version, state) (servekit_version_state{_MODEL})",
            ["version", "state"],
            span=8,
        ),
    ]
