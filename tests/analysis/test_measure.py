"""The analyst and `servekit canary check`: a real gateway in front of a real server, with real clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from servekit.analysis.measure import Analyst, Sources
from servekit.analysis.promql import Prometheus
from servekit.analysis.verdict import Check, NoData, Verdict, read
from servekit.config.load import load
from servekit.gateway.answers import metrics_text
from servekit.gateway.counters import REQUESTS
from servekit.gateway.splits import Split
from servekit.paths import Bundle
from tests.analysis.prometheus import RunningPrometheus
from tests.analysis.web import web
from tests.conftest import ROOT, RunningServer, free_port
from tests.gateway.conftest import MODEL, Gateway
from tests.gateway.conftest import server as server  # half_plus_two; version 2 answers x / 2 + 3
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow

QUIET = {"success_rate": "off", "p99_ratio": "off", "agreement": {"minimum": "off"}}
TRAFFIC = {**QUIET, "success_rate": 99, "p99_ratio": 20, "min_requests": 20}


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"), server.grpc_port, server.rest_port)
    running.set(Split(weight=50))
    yield running
    running.stop()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "config").mkdir()
    return Bundle(tmp_path)


def analysed(bundle: Bundle, analysis: dict[str, Any], **canary: Any) -> None:
    """Writes a serving.yaml with these settings of the canary."""
    model = {
        "versions": {"specific": [1, 2]},
        "labels": {"stable": 1, "canary": 2},
        "canary": {"weight": 50, **canary, "analysis": {"interval": "2s", **analysis}},
    }
    bundle.serving_yaml.write_text(json.dumps({"models": {MODEL: model}}))


@pytest.fixture
def analyst(bundle: Bundle, gateway: Gateway, server: RunningServer) -> Iterator[Any]:
    started: list[Analyst] = []

    def start(
        analysis: dict[str, Any], prometheus: str | None = None, metrics: str | None = None, **canary: Any
    ) -> Analyst:
        analysed(bundle, analysis, **canary)
        sources = Sources(f"grpc://{server.grpc}", metrics or gateway.metrics, prometheus)
        started.append(Analyst(bundle, MODEL, load(bundle.serving_yaml), sources))
        return started[-1]

    yield start
    for one in started:
        one.close()


def ask(gateway: Gateway, count: int) -> None:
    """Half of them over REST, half over gRPC."""
    for _ in range(count // 2):
        gateway.rest_predict()
        gateway.grpc_predict()


def named(verdict: Verdict) -> dict[str, Check]:
    return {check.name: check for check in verdict.checks}


def is_good(verdict: Verdict, still: StandingStill) -> bool:
    """Where the machine stood still, the slowest request may have waited for that: its p99 is known, and no more."""
    success_rate, p99_ratio = verdict.checks
    stalled = success_rate.result == "pass" and p99_ratio.value is not None and still.seconds > 0
    return verdict.result == "pass" or stalled


def test_the_requests_since_the_last_check_are_judged(analyst: Any, gateway: Gateway) -> None:
    one = analyst({**TRAFFIC, "min_requests": 28})
    ask(gateway, 20)
    gateway.wait_until_timed()
    first = one.check()
    assert first.result == "no data"
    assert "the first look at the counters" in first.checks[0].text
    with StandingStill() as still:
        ask(gateway, 120)
        gateway.wait_until_timed()
    verdict = one.check()
    assert is_good(verdict, still), str(verdict)
    assert named(verdict)["success_rate"].value == 100
    assert 30 < int(named(verdict)["success_rate"].text.split()[0]) < 90
    again = one.check()  # nothing came since
    assert again.result == "no data", str(again)
    with StandingStill() as still:
        ask(gateway, 30)
        gateway.wait_until_timed()
        few = one.check()
        ask(gateway, 60)
        gateway.wait_until_timed()
    assert few.result == "no data"
    assert is_good(both := one.check(), still), str(both)


def test_too_few_requests_wait(analyst: Any, gateway: Gateway) -> None:
    one = analyst({**TRAFFIC, "min_requests": 1000})
    one.begin()
    ask(gateway, 40)
    gateway.wait_until_timed()
    verdict = one.check()
    assert verdict.result == "no data"
    assert "are needed" in named(verdict)["success_rate"].text


def test_a_canary_that_refuses_what_stable_takes_fails(analyst: Any, gateway: Gateway, server: RunningServer) -> None:
    one = analyst({**TRAFFIC, "p99_ratio": "off"})
    one.begin()
    ask(gateway, 100)
    gateway.set(Split(weight=100))
    for _ in range(30):
        gateway.predict(json={"instances": ["no number"]})
    gateway.set(Split(weight=50))
    verdict = one.check()
    assert verdict.result == "fail", str(verdict)
    assert "30 refused, of which stable would have taken 30" in verdict.reason


def test_mirrored_requests_count_as_the_canary_s_where_they_are_configured(analyst: Any, gateway: Gateway) -> None:
    gateway.set(Split(weight=0, mirror=100))
    with_copies, without = (
        analyst({**TRAFFIC, "p99_ratio": "off"}, mirror=100),
        analyst({**TRAFFIC, "p99_ratio": "off"}),
    )
    for one in (with_copies, without):
        one.begin()
    ask(gateway, 60)
    gateway.wait_until_timed()
    gateway.set(Split(weight=50))
    assert with_copies.check().result == "pass"
    assert without.check().result == "no data"


def test_a_gateway_that_is_gone_is_no_data(analyst: Any) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    verdict = analyst(TRAFFIC, metrics=address).check()
    assert verdict.result == "no data"
    assert verdict.checks[0].text == f"the gateway does not answer at {address}"


def test_without_gateway_and_prometheus_rates_and_queries_are_no_data(bundle: Bundle, server: RunningServer) -> None:
    analysed(bundle, {**TRAFFIC, "queries": {"load": {"query": "1", "maximum": 2}}})
    verdict = Analyst(bundle, MODEL, load(bundle.serving_yaml), Sources(f"grpc://{server.grpc}")).check()
    assert verdict.result == "no data"
    assert named(verdict)["success_rate"].text == "neither a gateway nor a Prometheus to read the counters from"
    assert named(verdict)["queries.load"].text == "needs a Prometheus, and its address is not known"


def test_labels_that_move_begin_anew(analyst: Any, gateway: Gateway, bundle: Bundle) -> None:
    one = analyst({**TRAFFIC, "p99_ratio": "off"})
    one.begin()
    ask(gateway, 60)
    assert one.check().result == "pass"
    text = bundle.serving_yaml.read_text()
    bundle.serving_yaml.write_text(text.replace('"stable": 1', '"stable": 2').replace('"canary": 2', '"canary": 1'))
    one.serving = load(bundle.serving_yaml)
    assert one.check().result == "no data"


def test_agreement_queries_and_gates_make_one_verdict(
    analyst: Any, bundle: Bundle, gateway: Gateway, prometheus_tools: Path, tmp_path: Path
) -> None:
    (bundle.root / "samples.json").write_text(json.dumps([{"instances": [float(x)]} for x in range(1, 6)]))
    (tmp_path / "tsdb").mkdir()
    prometheus = RunningPrometheus(prometheus_tools / "prometheus", tmp_path / "tsdb", gateway.metrics)
    try:
        with web(lambda _: (200, b"fine by me")) as hook:
            settings = {
                **QUIET,
                "agreement": {"samples": "samples.json", "relative_error": 0.3},
                "queries": {"canary": {"query": "{{canary}} - {{stable}}", "maximum": 1}},
                "gates": {"hook": {"url": hook.url}, "script": {"command": ["sh", "-c", "cat >asked.json"]}},
            }
            verdict = analyst(settings, prometheus.url).check()
    finally:
        prometheus.stop()
    assert str(verdict).splitlines() == [
        "fail    agreement 0.6 (≥ 0.8): 3 of 5 answers alike; samples.json[0]: y: relative difference 0.4; "
        "samples.json[1]: y: relative difference 0.333",
        "pass    queries.canary 1 (≤ 1)",
        "pass    gates.hook: fine by me",
        "pass    gates.script: exit status 0",
    ]
    told = json.loads((bundle.root / "asked.json").read_text())
    assert (told["model"], told["stable"], told["canary"], told["weight"], told["phase"]) == (
        MODEL,
        1,
        2,
        50,
        "analysis",
    )
    assert told["result"] == "fail"
    assert [check["name"] for check in told["checks"]] == ["agreement", "queries.canary"]
    assert json.loads(hook.asked[0].body) == told


def test_a_version_without_warm_up_records_asks_for_samples(analyst: Any) -> None:
    verdict = analyst({**QUIET, "agreement": {}}).check()
    assert verdict.result == "no data"
    assert "analysis.agreement.samples" in verdict.checks[0].text


def test_a_prometheus_takes_the_place_of_the_gateway_s_page(
    bundle: Bundle, gateway: Gateway, server: RunningServer, prometheus_tools: Path, tmp_path: Path
) -> None:
    analysed(bundle, {**TRAFFIC, "p99_ratio": "off"})
    (tmp_path / "tsdb").mkdir()
    prometheus = RunningPrometheus(prometheus_tools / "prometheus", tmp_path / "tsdb", gateway.metrics)
    one = Analyst(bundle, MODEL, load(bundle.serving_yaml), Sources(f"grpc://{server.grpc}", None, prometheus.url))
    try:
        before = one.check()  # before the first scrape, or after it
        deadline = time.monotonic() + 60
        while Prometheus(prometheus.url).number(f"sum({REQUESTS})") == NoData("no series"):
            assert time.monotonic() < deadline, prometheus.log.read_text()
            time.sleep(0.1)
        one.begin()
        ask(gateway, 80)
        while Prometheus(prometheus.url).number(f"sum({REQUESTS})") != asked(gateway):
            assert time.monotonic() < deadline, prometheus.log.read_text()
            time.sleep(0.1)
        verdict = one.check()
    finally:
        one.close()
        prometheus.stop()
    assert before.result == "no data"
    assert verdict.result == "pass", str(verdict)
    assert one.check().checks[0].text.startswith("Prometheus at ")


def asked(gateway: Gateway) -> float:
    text = metrics_text(gateway.metrics, 5)
    assert text is not None
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == REQUESTS)


def check(bundle: Bundle, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "servekit", "canary", "check", *arguments],
        env=os.environ | {"SERVEKIT_HOME": str(bundle.root), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_canary_check_prints_a_line_a_check_and_exits_by_the_verdict(
    bundle: Bundle, gateway: Gateway, server: RunningServer
) -> None:
    few = {**TRAFFIC, "min_requests": 5}  # a busy machine answers so many in two seconds
    analysed(bundle, {**few, "gates": {"friday": {"command": ["sh", "-c", "echo not on a Friday; exit 1"]}}})
    stop = threading.Event()

    def load_it() -> None:
        while not stop.is_set():
            ask(gateway, 2)
            time.sleep(0.02)

    client = threading.Thread(target=load_it)
    client.start()
    try:
        addresses = (f"--url=grpc://{server.grpc}", f"--gateway-url={gateway.metrics}")
        failing = check(bundle, MODEL, *addresses)
        analysed(bundle, few)
        passing = check(bundle, MODEL, "--json", "--for=2", *addresses)
    finally:
        stop.set()
        client.join()
    assert failing.returncode == 1, failing.stderr
    assert [line[:8].strip() for line in failing.stdout.splitlines()] == ["pass", "pass", "fail"]
    assert failing.stdout.splitlines()[2] == "fail    gates.friday: not on a Friday"
    assert failing.stderr.splitlines()[-1] == "verdict: fail"
    assert passing.returncode == 0, passing.stdout
    document = json.loads(passing.stdout)
    assert document.pop("model") == MODEL
    assert read(document).result == "pass"


@pytest.mark.parametrize(
    ("models", "message", "hint"),
    [
        ({"vit": {}}, f"error: no model {MODEL} in serving.yaml (there are: vit)", "hint: servekit canary status"),
        (
            {MODEL: {"versions": {"specific": [1]}, "labels": {"stable": 1}}},
            f"error: {MODEL} has no label canary: there is nothing to compare",
            f"hint: servekit canary start {MODEL} --version N",
        ),
    ],
    ids=["no such model", "no canary"],
)
def test_canary_check_without_a_canary_says_what_is_missing(
    bundle: Bundle, models: dict[str, Any], message: str, hint: str
) -> None:
    bundle.serving_yaml.write_text(json.dumps({"models": models}))
    result = check(bundle, MODEL)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [message, hint]


def test_canary_check_of_a_server_that_is_gone_has_no_data(bundle: Bundle) -> None:
    analysed(bundle, {**TRAFFIC, "agreement": {"samples": "x.json"}})
    (bundle.root / "x.json").write_text('{"instances": [1.0]}')
    port = free_port()
    result = check(bundle, MODEL, "--for=0", f"--url=grpc://127.0.0.1:{port}", f"--gateway-url=http://127.0.0.1:{port}")
    assert result.returncode == 1
    assert [line[:8].strip() for line in result.stdout.splitlines()] == ["no data"] * 3
    assert f"no model server answers at grpc://127.0.0.1:{port}" in result.stdout
