"""A gateway at work: its routes change under load, it copies requests to the canary, it counts."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter

import grpc
import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from servekit.client import Client
from servekit.errors import StatusError
from servekit.gateway.answers import metrics_text, served_generation
from servekit.gateway.counters import Counts
from servekit.gateway.splits import Split, generation
from servekit.protos import messages
from tests import plain_http
from tests.conftest import ROOT, RunningServer
from tests.gateway.conftest import MODEL, Gateway, predict_request, tally
from tests.standing_still import StandingStill

pytestmark = pytest.mark.slow


def test_weights_change_under_load_without_a_failed_request(gateway: Gateway) -> None:
    gateway.set(Split())
    stop, phase = threading.Event(), ["between"]
    seen: list[tuple[str, str]] = []
    failures: list[str] = []

    def work(protocol: str) -> None:
        http = plain_http.Http(base_url=gateway.rest)
        with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                response_deserializer=messages.PredictResponse.FromString,
            )
            while not stop.is_set():
                began = phase[0]
                try:
                    if protocol == "rest":
                        answer = http.post(f"/v1/models/{MODEL}:predict", json={"instances": [1.0]}).raise_for_status()
                        label = answer.headers["x-servekit-label"]
                    else:
                        response = call(predict_request().SerializeToString(), timeout=10)
                        label = {1: "stable", 2: "canary"}[response.model_spec.version.value]
                except (grpc.RpcError, httpx.HTTPError) as error:
                    failures.append(repr(error))
                    continue
                if began == phase[0]:
                    seen.append((began, label))
        http.close()

    threads = [threading.Thread(target=work, args=(protocol,)) for protocol in ("rest", "rest", "grpc")]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(2):
            for percent in (0, 10, 50, 100):
                phase[0] = "between"
                gateway.set(Split(weight=percent, mirror=round_))
                phase[0] = f"{percent} %"
                enough, deadline = len(seen) + 60, time.monotonic() + 30
                while len(seen) < enough:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    counts = Counter(seen)
    assert failures == []
    assert counts["0 %", "canary"] == counts["100 %", "stable"] == 0
    assert min(counts["0 %", "stable"], counts["100 %", "canary"], counts["50 %", "stable"]) > 20
    assert counts["50 %", "canary"] > counts["10 %", "canary"] > 0


def test_a_broken_route_file_leaves_the_routes_as_they_were(gateway: Gateway) -> None:
    gateway.set(Split(weight=100))
    before = served_generation(gateway.metrics, 1)
    for text in ("resources: [{", "resources: []\n", gateway.routes.read_text().replace("rest_stable", "nobody")):
        staged = gateway.folder / "routes" / ".broken"
        staged.write_text(text)
        staged.replace(gateway.routes)
        time.sleep(0.3)
        assert served_generation(gateway.metrics, 1) == before
        assert tally(gateway.rest_predict, 20) == {"canary": 20}
    gateway.set(Split(weight=0))
    assert tally(gateway.rest_predict, 20) == {"stable": 20}


def test_copies_go_to_the_canary_and_only_stable_answers(gateway: Gateway, server: RunningServer) -> None:
    gateway.set(Split(weight=0, mirror=100))
    before = gateway.counts()
    assert tally(gateway.rest_predict, 30) == tally(gateway.grpc_predict, 30) == {"stable": 30}

    big = gateway.call("Predict", predict_request(*np.ones(200_000)), messages.PredictResponse)[0]
    assert big.model_spec.version.value == 1
    deadline = time.monotonic() + 30
    while True:
        now = gateway.counts()
        canary = now[MODEL, "canary"] - before.get((MODEL, "canary"), Counts())
        if canary.copied.total == 61 or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert canary.copied.requests == {"200": 30, "OK": 31}
    assert canary.clients.total == 0
    stable = now[MODEL, "stable"] - before.get((MODEL, "stable"), Counts())
    assert (stable.rest.total, stable.grpc.total, stable.copied.total) == (30, 31, 0)
    gateway.set(Split(weight=0, mirror=0))
    gateway.rest_predict()
    gateway.wait_until_timed()
    assert gateway.counts()[MODEL, "canary"].copied.total == now[MODEL, "canary"].copied.total


def test_requests_errors_and_latencies_are_counted_by_label(gateway: Gateway) -> None:
    gateway.set(Split(weight=100))
    before = gateway.counts()
    for _ in range(20):
        gateway.rest_predict()
        gateway.grpc_predict()
    bad = predict_request()
    del bad.inputs["x"]
    for _ in range(3):
        assert gateway.predict(json={"instances": ["no number"]}).status_code == 400
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            gateway.call("Predict", bad, messages.PredictResponse)
    gateway.predict("/labels/stable")
    gateway.predict("/versions/2")
    gateway.http.get(f"/v1/models/{MODEL}")
    gateway.http.get(f"/v1/models/{MODEL}/metadata")
    gateway.http.post("/v1/models/nobody:predict", json={"instances": [1.0]})
    gateway.wait_until_timed()
    after = gateway.counts()

    def since(label: str) -> dict[str, float]:
        traffic = after[MODEL, label] - before.get((MODEL, label), Counts())
        return {code: count for code, count in traffic.clients.requests.items() if count}

    assert since("canary") == {"200": 20, "400": 3, "OK": 20, "INVALID_ARGUMENT": 3}
    assert since("stable") == {"200": 1}
    assert since("") == {"200": 1}
    assert after["", ""].rest.requests["404"] >= 1
    canary = after[MODEL, "canary"] - before.get((MODEL, "canary"), Counts())
    assert canary.clients.buckets[float("inf")] == canary.clients.total == 46
    assert canary.clients.succeeded == 40
    assert canary.clients.buckets[0.1] < canary.clients.buckets[1000.0] == 46


def test_the_page_for_prometheus_is_small_and_everything_else_is_closed(gateway: Gateway) -> None:
    text = metrics_text(gateway.metrics, 5)
    assert text is not None
    answer = plain_http.get(f"{gateway.metrics}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for path in (
        "/",
        "/stats",
        "/config_dump",
        "/quitquitquit",
        "/metrics/../quitquitquit",
        "/v1/models/half_plus_two",
    ):
        assert plain_http.get(gateway.metrics + path).status_code == 404, path
    assert plain_http.post(f"{gateway.metrics}/quitquitquit").status_code == 404
    assert served_generation(f"{gateway.metrics}/metrics", 1) == generation(gateway.splits, gateway.serving)
    assert served_generation("http://127.0.0.1:1", 1) is None
    assert served_generation(gateway.rest, 1) is None


def test_a_request_that_takes_too_long_is_ended_and_so_is_a_full_house(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """On a socket that accepts and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        port = silent.getsockname()[1]
        slow = Gateway(tmp_path_factory.mktemp("slow"), port, port, deadline_ms=700, max_requests=2)
        try:
            began = time.monotonic()
            with StandingStill() as still:
                answer = slow.predict()
            assert time.monotonic() - began < 3 + still.seconds
            assert answer.status_code == 504
            assert answer.json() == {"error": "the model server did not answer within 700 ms (gateway.deadline_ms)"}
            with pytest.raises(grpc.RpcError) as caught:
                slow.grpc_predict()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with Client(f"grpc://127.0.0.1:{slow.grpc_port}") as client, pytest.raises(StatusError) as told:
                client.status("half_plus_two")
            assert told.value.message == "the model server did not answer within 700 ms (gateway.deadline_ms)"
            assert set(overflows(slow).values()) == {0.0}
            statuses: list[int | str] = []

            def ask_over_grpc() -> None:
                with pytest.raises(grpc.RpcError) as refused:
                    slow.grpc_predict()
                statuses.append(refused.value.code().name)

            asks = [*[lambda: statuses.append(slow.predict().status_code)] * 8, *[ask_over_grpc] * 8]
            threads = [threading.Thread(target=ask) for ask in asks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            counts = Counter(statuses)
            assert counts.keys() == {503, 504, "UNAVAILABLE", "DEADLINE_EXCEEDED"}
            refused = {"rest_stable": counts[503], "grpc_stable": counts["UNAVAILABLE"]}
            assert {cluster: count for cluster, count in overflows(slow).items() if count} == refused
        finally:
            slow.stop()


def overflows(gateway: Gateway) -> dict[str, float]:
    """By cluster, of all that the alert GatewayOverflow adds up."""
    rules = yaml.safe_load((ROOT / "prometheus" / "rules" / "alerts.yml").read_text())["groups"]
    [alert] = [rule for group in rules for rule in group["rules"] if rule.get("alert") == "GatewayOverflow"]
    asked = {f"{name}_total" for name in re.findall(r"envoy_\w+(?={)", alert["expr"])}  # the parser's own ending
    text = metrics_text(gateway.metrics, 5)
    assert text is not None
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples if one.name in asked]
    assert {one.name for one in samples} == asked
    sums: dict[str, float] = {}
    for one in samples:
        cluster = one.labels["envoy_cluster_name"]
        sums[cluster] = sums.get(cluster, 0.0) + one.value
    return sums
