"""What the controller tells Prometheus of canaries."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import generate_latest

from servekit.analysis.verdict import Check, Verdict
from servekit.canary.advance import Progress
from servekit.config.canary import Canary
from servekit.config.models import Model, Specific
from servekit.config.serving import Serving
from servekit.gateway.splits import Split
from servekit.rollout.metrics import Metrics
from servekit.rollout.plan import Change
from servekit.rollout.proof import Seen

MODEL = Model(
    versions=Specific(specific=(1, 2)), labels={"stable": 1, "canary": 2}, canary=Canary(weight=20, auto=True)
)


def lines(metrics: Metrics) -> set[str]:
    return {line for line in generate_latest(metrics.registry).decode().splitlines() if line[0] != "#"}


def test_labels_weights_phase_and_the_last_verdict_are_told() -> None:
    metrics = Metrics()
    seen = Seen(frozenset({1, 2}), {1: "AVAILABLE", 2: "AVAILABLE"}, {}, {"stable": 1, "canary": 2}, Split(10))
    change = Change("vit", MODEL, MODEL, seen, split=Split(20))
    metrics.seen([change], converged=False)
    checks = (Check("success_rate", "fail", 97.5, "≥ 99", ""), Check("agreement", "no data", None, "≥ 0.9", ""))
    progress = Progress(1, 2, 0.0).after(Verdict("fail", checks), 30.0)
    metrics.analysed(Serving(models={"vit": MODEL}), {"vit": progress})
    metrics.decided("vit", "rolled back")
    assert lines(metrics) >= {
        'servekit_rollout_label_version{label="canary",model="vit",side="actual"} 2.0',
        'servekit_canary_weight{model="vit",side="desired"} 20.0',
        'servekit_canary_weight{model="vit",side="actual"} 10.0',
        'servekit_canary_phase{model="vit",phase="analysing"} 1.0',
        'servekit_canary_phase{model="vit",phase="paused"} 0.0',
        'servekit_canary_check{check="all",model="vit"} 0.0',
        'servekit_canary_check{check="success_rate",model="vit"} 0.0',
        'servekit_canary_check{check="agreement",model="vit"} NaN',
        'servekit_canary_check_value{check="success_rate",model="vit"} 97.5',
        'servekit_canary_failed_checks{model="vit"} 1.0',
        'servekit_canary_failed_checks_threshold{model="vit"} 3.0',
        'servekit_canary_decisions_total{decision="rolled back",model="vit"} 1.0',
    }
    metrics.seen([replace(change, seen=replace(seen, silent=True))], converged=False)
    assert 'servekit_canary_weight{model="vit",side="actual"} NaN' in lines(metrics)
