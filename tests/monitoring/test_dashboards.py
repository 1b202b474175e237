"""Every query of every panel and variable, asked of a real Prometheus that scrapes a real server under traffic."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.drawing import page, shown
from grafana.pictures import Source
from servekit.client import Client, ModelSpec
from servekit.errors import StatusError
from servekit.gateway.counters import REQUESTS
from tests import plain_http
from tests.canary.conftest import Stack
from tests.conftest import free_port
from tests.monitoring.running import ROOT, Controller, Exporter, Prometheus, panels
from tests.monitoring.test_rules import rules

DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
}
SOURCE = yaml.safe_load((ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
RECORDED = ROOT.parent / "shared" / "conformance" / "metrics_families.tsv"

SERVING = """
models:
  half:
    versions: {specific: [1, 2]}
    labels: {stable: 1, canary: 2}
    canary:
      mirror: 10
      auto: true
      analysis:
        interval: 5s
        threshold: 100
        min_requests: 5
        agreement: {samples: samples.json, count: 1}
        queries: {unknown: {query: "vector(1)", minimum: 0}}
  spare: {versions: all}
server: {max_num_load_retries: 0, poll_seconds: 1}
batching: {max_batch_size: 16, batch_timeout_micros: 500, num_batch_threads: 2}
"""
"""Without a Prometheus of its own the query has no data."""


class Rollout(Stack):
    """A canary that fails its checks for as long as the tests run."""

    def write(self, versions: str, labels: str, canary: str = "") -> None:
        shutil.copytree(self.root / "models" / "half" / "1", self.root / "models" / "spare" / "1")
        shutil.rmtree(self.root / "models" / "half" / "4")
        (self.root / "samples.json").write_text('{"instances": [1.0]}')
        self.yaml.write_text(SERVING)


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    dashboard: str
    panel: dict[str, Any]
    expression: str
    legend: str

    @property
    def id(self) -> str:
        return f"{self.dashboard}: {self.panel['title']}: {self.legend or 'table'}"

    def labels(self) -> set[str]:
        """Labels that the legend or the table's columns name."""
        columns = [
            column
            for transformation in self.panel.get("transformations", [])
            for column in transformation["options"]["indexByName"]
        ]
        return set(re.findall(r"{{\s*(\w+)\s*}}", self.legend)) | (set(columns) - {"Value"})


TARGETS = [
    Target(name, panel, target["expr"], target.get("legendFormat", ""))
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard["panels"])
    for target in panel.get("targets") or []
]
VARIABLES = [(name, entry) for name, dashboard in DASHBOARDS.items() for entry in dashboard["templating"]["list"]]


@pytest.fixture(scope="module")
def stack(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """Server and gateway with two versions behind labels, batching on; another model has a broken version."""
    running = Rollout(tmp_path_factory.mktemp("bundle"), models)
    broken = running.root / "models" / "spare" / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no model")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def prometheus(
    prometheus_tools: Path, stack: Rollout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """It has scraped server, gateway, controller and exporter for some seconds of requests, and goes on."""
    folder = tmp_path_factory.mktemp("prometheus")
    grpc, rest = stack.ports[:2]
    exporter = Exporter(
        folder, free_port(), f"--models-config={stack.bundle.rendered}/models.config", f"--url=grpc://127.0.0.1:{grpc}"
    )
    controller = Controller(stack, free_port())
    _ask(stack, rounds=1)  # every counter is there at the first scrape, and rates are of the same time
    labels = {"__metrics_path__": "/monitoring/prometheus/metrics"}
    targets = [{"targets": [f"127.0.0.1:{rest}"], "labels": labels}]
    running = Prometheus(
        prometheus_tools, folder, free_port(), targets=targets, exporter=exporter.address,
        gateway=stack.gateway_url.removeprefix("http://"), controller=controller.address,
    )  # fmt: skip
    stop = threading.Event()
    traffic = threading.Thread(target=_ask, args=(stack,), kwargs={"stop": stop})
    traffic.start()
    try:
        deadline = time.monotonic() + 120
        while _unanswered(running) and time.monotonic() < deadline:
            time.sleep(0.5)
        yield running
    finally:
        stop.set()
        traffic.join()
        running.stop()
        controller.stop()
        exporter.stop()


def _ask(stack: Rollout, rounds: int | None = None, stop: threading.Event | None = None) -> None:
    """So often, or until `stop`, at the gateway: good requests over both protocols, a client's mistakes, a signature
    that is not there, status polls. Stable gets those without a label."""
    canary, url = ModelSpec("half", version_label="canary"), f"http://127.0.0.1:{stack.ports[3]}"
    with (
        Client(f"grpc://127.0.0.1:{stack.ports[2]}") as grpc,
        Client(url) as rest,
        plain_http.Http(base_url=url) as raw,
    ):
        for _ in itertools.count() if rounds is None else range(rounds):
            if stop is not None and stop.wait(0.02):
                break
            for client in (grpc, rest):
                client.predict(ModelSpec("half"), {"x": [1.0, 2.0]})
                client.predict(canary, {"x": [1.0]})
            with pytest.raises(StatusError, match="none"):
                grpc.predict(replace(canary, signature_name="none"), {"x": [1.0]})
            assert raw.post("/v1/models/half/labels/no:predict", json={"instances": [1.0]}).status_code == 400
            raw.get("/v1/models/half")


def _unanswered(prometheus: Prometheus) -> list[str]:
    return [target.id for target in TARGETS if not _has_numbers(prometheus, _asked(prometheus, target))]


def _has_numbers(prometheus: Prometheus, expression: str) -> bool:
    return any(not math.isnan(value) for _, value in prometheus.query(expression))


def _asked(prometheus: Prometheus, target: Target) -> str:
    """The query as Grafana sends it, with every variable's value."""
    text = target.expression.replace("$__rate_interval", "60s")
    for entry in DASHBOARDS[target.dashboard]["templating"]["list"]:
        text = text.replace(f"${entry['name']}", _value(prometheus, target.dashboard, entry))
    assert "$" not in text, f"a variable that the dashboard does not have: {text}"
    return text


def _value(prometheus: Prometheus, dashboard: str, entry: dict[str, Any]) -> str:
    if entry.get("allValue"):
        return str(entry["allValue"])
    if "current" in entry:
        return str(entry["current"]["value"])
    return next(iter(_choices(prometheus, dashboard, entry)), "")


def _choices(prometheus: Prometheus, dashboard: str, entry: dict[str, Any]) -> list[str]:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", entry["query"])
    assert asked is not None, entry["query"]
    selector = asked[1]
    for other in DASHBOARDS[dashboard]["templating"]["list"]:
        if f"${other['name']}" in selector:
            selector = selector.replace(f"${other['name']}", _value(prometheus, dashboard, other))
    return [value for value in prometheus.label_values(selector, asked[2]) if value]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.id)
@pytest.mark.slow
def test_a_panel_has_data_with_the_labels_of_its_legend(prometheus: Prometheus, target: Target) -> None:
    series = prometheus.query(_asked(prometheus, target))
    assert series, "no data"
    assert any(not math.isnan(value) for _, value in series), "only NaN"
    for labels, _ in series:
        assert target.labels() <= labels.keys()


@pytest.mark.parametrize(
    ("dashboard", "entry"), VARIABLES, ids=lambda value: value if isinstance(value, str) else value["name"]
)
@pytest.mark.slow
def test_a_variable_has_values_and_its_default_is_one_of_them(
    prometheus: Prometheus, dashboard: str, entry: dict[str, Any]
) -> None:
    choices = _choices(prometheus, dashboard, entry)
    assert choices
    default = entry.get("current", {}).get("value")
    assert default in (None, "$__all", *choices)


@pytest.mark.slow
def test_figures_are_those_of_the_traffic(prometheus: Prometheus) -> None:
    """Of six predictions four go well, one asks for no label, one fails on version 2; status polls count in none."""
    [(_, ratio)] = prometheus.query('servekit:error_ratio:rate5m{model_name="half"}')
    [(_, rejected)] = prometheus.query('servekit:rejected_ratio:rate5m{model_name="half"}')
    assert ratio == pytest.approx(1 / 6, abs=0.02)
    assert rejected == pytest.approx(1 / 6, abs=0.02)
    versions = {labels["version"]: value for labels, value in prometheus.query("servekit:label_requests:rate2m")}
    assert versions["2"] == pytest.approx(versions["1"] * 1.5, rel=0.1)
    failed = {labels["label"]: value for labels, value in prometheus.query("servekit:label_error_ratio:rate2m")}
    assert failed["canary"] == pytest.approx(1 / 3, abs=0.05)
    assert failed["stable"] == 0
    firing = {labels["alertname"] for labels, _ in prometheus.query('ALERTS{alertstate="firing"}')}
    assert "ModelLoadFailed" in firing
    assert firing <= {"ModelLoadFailed", "HighErrorRate", "BatchQueueFull"}


@pytest.mark.slow
def test_a_roll_out_is_told_with_its_checks(prometheus: Prometheus, stack: Rollout) -> None:
    phases = {one["model"]: one["phase"] for one, _ in prometheus.query("servekit_canary_phase == 1")}
    assert phases == {"half": "analysing", "spare": "none"}

    def verdicts() -> dict[str, str]:
        return {one["check"]: one["verdict"] for one, _ in prometheus.query("servekit:canary_verdict:info")}

    until(lambda: verdicts().get("success_rate") == "fail")  # there may have been too few requests for the first one
    assert verdicts()["all"] == verdicts()["agreement"] == "fail"
    assert verdicts()["queries.unknown"] == "no data"
    sides = prometheus.query('servekit_rollout_label_version{label="canary"}')
    assert {one["side"]: version for one, version in sides} == {"desired": 2, "actual": 2}
    answered = f'sum({REQUESTS}{{label="stable", traffic="client", method="predict"}})'
    until(lambda: prometheus.query(answered)[0][1] > 800)  # of which a tenth is 80 within 48, five deviations
    [(_, copies)] = prometheus.query("servekit:label_copies:rate2m")
    [(_, stable)] = prometheus.query('servekit:label_requests:rate2m{label="stable"}')
    assert copies / stable == pytest.approx(0.1, abs=0.06)


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_no_data_is_neither_a_verdict_nor_equal(prometheus: Prometheus) -> None:
    """CanaryWithoutVerdict and RolloutStuck count on it, and promtool cannot write NaN."""
    assert not prometheus.query("vector(NaN) >= 0")
    assert prometheus.query("vector(2) != vector(NaN)")
    assert prometheus.query("max(vector(2)) != max(vector(NaN))")


@pytest.mark.slow
def test_alerts_ask_for_families_that_are_there_before_anything_happens(prometheus: Prometheus) -> None:
    """But for the rollback, which has no line before the first."""
    asked = " ".join(rule["expr"] for rule in rules("alert").values())
    names = set(re.findall(r"\b(?:envoy|servekit)_\w+", asked))
    names -= {"servekit_canary_decisions_total", "envoy_cluster_name"}  # the other is a label
    assert len(names) > 10
    for name in names:
        assert prometheus.query(name), name


@pytest.mark.slow
def test_the_other_models_version_is_told_as_broken(prometheus: Prometheus) -> None:
    states = prometheus.query('servekit_version_state{model="spare", version="2"}')
    assert {(labels["job"], labels["state"], labels["code"]) for labels, _ in states} == {
        ("tensorflow-serving", "END", "DATA_LOSS"),
        ("servekit-exporter", "END", "DATA_LOSS"),
    }


@pytest.mark.slow
def test_a_picture_shows_every_panel_with_its_answer(prometheus: Prometheus) -> None:
    for dashboard in DASHBOARDS.values():
        with plain_http.Http(base_url=prometheus.url) as http:
            source = Source(http, dashboard, 10, time.time())
            answers = {panel["id"]: source.answers(panel) for panel in dashboard["panels"]}
        text = page(dashboard, answers, "now")
        assert "class=empty" not in text
        for panel in dashboard["panels"]:
            assert html.escape(panel.get("title") or "Figures of a label") in text
        assert dashboard["uid"] != "servekit-canary" or "canary (version 2)" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0313, "s", "31.3 ms"),
        (2.5, "s", "2.5 s"),
        (0.0123, "percentunit", "1.23%"),
        (1.0, "bool_yes_no", "Yes"),
        (1.5 * 2**30, "bytes", "1.5 GiB"),
        (12.0, "reqps", "12 req/s"),
        (math.nan, "short", "–"),
    ],
)
def test_pictures_write_values_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_every_panel_and_variable_asks_the_one_data_source_by_its_uid() -> None:
    [source] = SOURCE["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    for dashboard in DASHBOARDS.values():
        asking = [panel for panel in panels(dashboard["panels"]) if panel["type"] not in {"row", "text"}]
        assert all(panel["datasource"] == wanted for panel in asking)
        assert all(target["datasource"] == wanted for panel in asking for target in panel["targets"])
        assert all(entry["datasource"] == wanted for entry in dashboard["templating"]["list"])


def test_promotions_and_rollbacks_are_marked_on_the_canary_dashboard() -> None:
    [marks] = DASHBOARDS["canary"]["annotations"]["list"]
    assert marks["enable"]
    assert marks["datasource"] == {"type": "grafana", "uid": "-- Grafana --"}
    assert marks["target"]["type"] == "tags"
    assert marks["target"]["tags"] == ["servekit"]  # servekit.analysis.annotate writes it


def test_every_panel_says_what_it_tells_and_has_its_own_number_and_place() -> None:
    for dashboard in DASHBOARDS.values():
        every = list(panels(dashboard["panels"]))
        assert len({panel["id"] for panel in every}) == len(every)
        assert all(panel.get("description") for panel in every if panel["type"] not in {"row", "text"})
        taken = [
            (x, y)
            for place in (panel["gridPos"] for panel in every)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(taken) == len(set(taken))
        assert max(x for x, _ in taken) < 24


def test_grafana_finds_prometheus_and_the_dashboards_where_compose_puts_them() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    provider = yaml.safe_load((ROOT / "grafana" / "provisioning" / "dashboards" / "servekit.yaml").read_text())
    mounts = dict(reversed(volume.removesuffix(":ro").split(":", 1)) for volume in services["grafana"]["volumes"])
    assert mounts[provider["providers"][0]["options"]["path"]] == "./grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert SOURCE["datasources"][0]["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    scraped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    assert SOURCE["datasources"][0]["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11")
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2")  # which Grafana before 12 does not read
def test_dashboards_are_what_their_code_builds_without_keys_that_grafana_does_not_know() -> None:
    from grafana.build import survives

    ran = subprocess.run(
        [sys.executable, "-m", "grafana.build", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for dashboard in DASHBOARDS.values():
        assert survives(dashboard)
        misspelt = json.loads(json.dumps(dashboard))
        misspelt["panels"][0]["gridPosition"] = {}
        assert not survives(misspelt)


@pytest.mark.skipif(not RECORDED.exists(), reason="the recordings of a real server are not beside the repository")
def test_a_real_server_has_every_family_of_tensorflow_servings_that_is_asked_for() -> None:
    recorded = {line.split("\t")[0]: line.split("\t") for line in RECORDED.read_text().splitlines()[1:]}
    texts = [path.read_text() for path in (ROOT / "prometheus" / "rules").glob("*.yml")]
    texts += [target.expression for target in TARGETS]
    asked = {name for text in texts for name in re.findall(r":tensorflow:[\w:]+", text)}
    for name in asked:
        family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in recorded else name
        assert family in recorded
        assert int(recorded[family][3]) > 0, f"{family} was empty on a real server under traffic"
