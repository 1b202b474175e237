"""prometheus/: promtool accepts it, every alert is tested, explained and has a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from servekit.analysis.counting import CLIENT_ERRORS
from servekit.gateway.counters import INFERENCE

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
CASES = sorted((ROOT / "prometheus" / "tests").glob("*.yml"))
MANUAL = ROOT / "docs" / "monitoring.md"


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Rules of all files by their name; `kind` is alert or record."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def cases(alert: str) -> list[bool]:
    """Of every check of the alert: whether it should fire there."""
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]
    queries = [check for test in tests for check in test["promql_expr_test"]]
    texts = [check for test in tests for check in test.get("alert_rule_test", [])]
    return [
        *(bool(check.get("exp_samples")) for check in queries if f'alertname="{alert}"' in check["expr"]),
        *(bool(check.get("exp_alerts")) for check in texts if check["alertname"] == alert),
    ]


def promtool(tools: Path, *arguments: str | Path) -> str:
    ran = subprocess.run([tools / "promtool", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_promtool_accepts_the_configuration_and_its_rules(prometheus_tools: Path) -> None:
    said = promtool(prometheus_tools, "check", "config", "prometheus/prometheus.yml")
    assert f"{len(RULES)} rule files found" in said
    assert "FAILED" not in said


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_alerts_fire_when_they_should_and_only_then(prometheus_tools: Path, case: Path) -> None:
    assert "SUCCESS" in promtool(prometheus_tools, "test", "rules", case)


@pytest.mark.parametrize("alert", rules("alert"))
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    assert any(cases(alert)), "no case in prometheus/tests fires it"
    assert not all(cases(alert)), "no case in prometheus/tests is silent"


@pytest.mark.parametrize("alert", rules("alert"))
def test_every_alert_says_what_happened_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = rules("alert")[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{alert.lower()}"
    assert re.search(rf"^### {alert}$", MANUAL.read_text(), re.MULTILINE), "no such heading in docs/monitoring.md"


def test_every_threshold_is_used_and_in_the_manual_with_its_number() -> None:
    recorded = rules("record")
    expressions = " ".join(rule["expr"] for rule in rules("alert").values())
    for name, rule in recorded.items():
        if name.startswith("servekit:threshold:"):
            assert name in expressions
            number = re.fullmatch(r"vector\((.+)\)", rule["expr"])
            assert number is not None
            assert f"| `{name}` | {number[1]} |" in MANUAL.read_text()


def test_only_metrics_that_servers_have_are_asked_for() -> None:
    """TensorFlow Serving's batching samplers come out as 0 on its page, and recorded names must exist."""
    recorded = rules("record")
    for rule in [*rules("alert").values(), *recorded.values()]:
        assert ":tensorflow:serving:batching:" not in rule["expr"]
        used = set(re.findall(r"(?<![\w:])servekit:[\w:]+", rule["expr"]))
        assert used <= recorded.keys()


def test_whose_fault_a_status_is_is_the_same_here_and_in_the_analysis() -> None:
    recorded = rules("record")
    said = re.findall(r'"fault", "client", "status",\s+"([^"]+)"', recorded["servekit:gateway_answers:rate2m"]["expr"])
    assert {status for regex in said for status in regex.split("|")} == CLIENT_ERRORS
    names = {status for status in CLIENT_ERRORS if status and not status.isdigit()}
    [of_models] = re.findall(r'"status",\s+"([^"]+)"', recorded["servekit:errors:rate5m"]["expr"])
    [of_versions] = re.findall(r'code=~"([^"]+)"', recorded["servekit:label_rejected:rate2m"]["expr"])
    [others] = re.findall(r'code!~"([^"]+)"', recorded["servekit:label_errors:rate2m"]["expr"])
    assert set(of_models.split("|")) == set(of_versions.split("|")) == names
    assert set(others.split("|")) == names | {"OK"}
    assert 'method=~"predict|classify|regress|multi_inference"' in recorded["servekit:gateway_answers:rate2m"]["expr"]
    assert {"predict", "classify", "regress", "multi_inference"} == INFERENCE


def test_alerts_name_jobs_that_are_scraped() -> None:
    scraped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    asked = re.findall(r'job!?[=~]+"([^"]+)"', " ".join(rule["expr"] for rule in rules("alert").values()))
    names = {name for text in asked for name in text.split("|")}
    assert names == {job["job_name"] for job in scraped} - {"servekit-exporter", "prometheus"}
