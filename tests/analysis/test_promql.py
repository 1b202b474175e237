"""The user's own PromQL, asked of a real Prometheus; and of servers that are none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servekit.analysis.counting import NoCounters, from_gateway, from_prometheus
from servekit.analysis.promql import Prometheus, filled, number
from servekit.analysis.tally import quantile
from servekit.analysis.verdict import NoData
from servekit.gateway.counters import REQUESTS
from tests.analysis.prometheus import RunningPrometheus
from tests.analysis.web import Web, web
from tests.conftest import free_port

pytestmark = pytest.mark.slow

COUNTS = (
    # label, protocol, traffic, code, grpc_status, count: as a gateway's page has them
    ("stable", "rest", "client", "200", "", 590),
    ("stable", "rest", "client", "400", "", 10),
    ("stable", "grpc", "client", "200", "OK", 399),
    ("stable", "grpc", "client", "200", "INVALID_ARGUMENT", 1),
    ("canary", "rest", "client", "200", "", 110),
    ("canary", "rest", "client", "500", "", 9),
    ("canary", "rest", "client", "0", "", 1),
    ("canary", "grpc", "client", "200", "OK", 60),
    ("canary", "grpc", "client", "200", "UNAVAILABLE", 20),
    ("canary", "rest", "copy", "200", "", 15),
    ("canary", "grpc", "copy", "200", "UNIMPLEMENTED", 5),
)
BOUNDS = {"4000": 0.1, "5000": 0.6, "6300": 0.9, "8000": 0.98, "10000": 1.0, "+Inf": 1.0}


def page() -> str:
    lines = [f"# TYPE {REQUESTS} counter"]
    timed: dict[str, int] = {}
    for label, protocol, traffic, code, grpc_status, count in COUNTS:
        series = f'model="imagenet",label="{label}",protocol="{protocol}",method="predict",traffic="{traffic}"'
        lines.append(f'{REQUESTS}{{{series},code="{code}",grpc_status="{grpc_status}"}} {count}')
        timed[series] = timed.get(series, 0) + count
    # Not inference, another model.
    other = 'model="imagenet",label="stable",protocol="rest",method="status",traffic="client"'
    lines.append(f'{REQUESTS}{{{other},code="200",grpc_status=""}} 5000')
    lines.append(f'{REQUESTS}{{{series.replace("imagenet", "vit")},code="500",grpc_status=""}} 7')
    lines.append("# TYPE envoy_servekit_latency_us histogram")
    for series, count in timed.items():
        for bound, share in BOUNDS.items():
            lines.append(f'envoy_servekit_latency_us_bucket{{{series},le="{bound}"}} {round(share * count)}')
        lines += [f"envoy_servekit_latency_us_{end}{{{series}}} {count}" for end in ("sum", "count")]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Web]:
    """What the gateway's page says, at the address where it says it."""
    with web(lambda asked: (200, page().encode()) if asked.path == "/metrics" else (404, b"")) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(prometheus_tools: Path, gateway: Web, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = prometheus_tools / "prometheus"
    running = RunningPrometheus(program, tmp_path_factory.mktemp("prometheus"), gateway.url)
    found = Prometheus(running.url)
    try:
        deadline = time.monotonic() + 60
        while found.number(f"count({REQUESTS})") == NoData("no series"):
            assert time.monotonic() < deadline, running.log.read_text()
            time.sleep(0.2)
        yield found
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("6 * 7", 42.0),
        ("vector(1.5)", 1.5),
        (f'sum({REQUESTS}{{model="imagenet",label="canary",protocol="rest"}})', 135.0),
        ("1 / 0", float("inf")),
        ("0 / 0", NoData("NaN")),
        ("no_such_series", NoData("no series")),
        (REQUESTS, NoData("13 series; one is needed: sum(...), or a selector of one")),
        ("up[1m]", NoData("the query gives a matrix; a number is needed")),
        ('"text"', NoData("the query gives a string; a number is needed")),
    ],
    ids=["scalar", "vector", "series", "infinity", "NaN", "no series", "several", "range", "text"],
)
def test_a_query_gives_one_number_or_says_why_not(prometheus: Prometheus, query: str, expected: float | NoData) -> None:
    assert prometheus.number(query) == expected


def test_a_query_that_prometheus_cannot_read_comes_back_with_its_words(prometheus: Prometheus) -> None:
    answer = prometheus.number("sum(")
    assert isinstance(answer, NoData)
    assert answer.why.startswith("Prometheus refuses the query: ")
    assert "parse error" in answer.why


def test_prometheus_and_the_page_itself_say_the_same(prometheus: Prometheus, gateway: Web) -> None:
    for copies in (False, True):
        page = from_gateway(gateway.url, "imagenet", copies=copies)
        assert from_prometheus(prometheus, "imagenet", copies=copies) == page
    stable, canary = page["stable"], page["canary"]
    assert (stable.requests, stable.server_errors, stable.client_errors, stable.timed) == (1000, 0, 11, 1000)
    assert (canary.requests, canary.server_errors, canary.client_errors, canary.timed) == (220, 29, 6, 220)


def test_a_prometheus_that_does_not_read_the_gateway_has_not_counted_nothing() -> None:
    empty = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'
    with web(lambda _: (200, empty)) as server, pytest.raises(NoCounters, match="does not read the gateway"):
        from_prometheus(Prometheus(server.url), "imagenet", copies=False)


def test_a_p99_is_the_one_that_prometheus_computes(prometheus: Prometheus, gateway: Web) -> None:
    selector = 'envoy_servekit_latency_us_bucket{model="imagenet",label="stable",protocol="rest",method="predict"}'
    theirs = prometheus.number(f"histogram_quantile(0.99, sum by (le) ({selector})) / 1000")
    assert quantile(from_gateway(gateway.url, "imagenet", copies=False)["stable"].buckets, 0.99) == pytest.approx(
        theirs
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"oops", "answers 500, but not like Prometheus"),
        (200, b"<html>", "answers 200, but not like Prometheus"),
        (503, b'{"status": "error", "errorType": "timeout", "error": "query timed out"}', "query timed out"),
        (200, b'{"status": "success", "data": {"resultType": "vector", "result": [{}]}}', "none of Prometheus'"),
        (200, b'{"status": "success", "data": []}', "none of Prometheus'"),
    ],
    ids=["500", "a page", "its own error", "no value", "another API"],
)
def test_a_server_that_is_no_prometheus_is_no_data(status: int, body: bytes, words: str) -> None:
    with web(lambda _: (status, body)) as server:
        answer = Prometheus(server.url).number("1")
    assert isinstance(answer, NoData)
    assert words in answer.why
    with web(lambda _: (status, body)) as server, pytest.raises(NoCounters):
        from_prometheus(Prometheus(server.url), "imagenet", copies=False)


def test_nobody_at_the_address_is_no_data_and_no_password_is_told() -> None:
    answer = Prometheus(f"http://me:secret@127.0.0.1:{free_port()}/prometheus/").number("1")
    assert isinstance(answer, NoData)
    assert "does not answer" in answer.why
    assert "secret" not in answer.why


def test_a_server_that_hangs_is_no_data() -> None:
    go_on = threading.Event()

    def hang(_: object) -> tuple[int, bytes]:
        go_on.wait(20)
        return 200, b""

    with web(hang) as server:
        answer = Prometheus(server.url, timeout_s=0.3).number("1")
        go_on.set()
    assert answer == NoData(f"Prometheus at {server.url} does not answer: no answer in time")


def test_a_path_before_the_api_is_kept() -> None:
    with web(lambda _: (200, b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "7"]}}')) as server:
        assert Prometheus(f"{server.url}/prometheus/").number("7") == 7
    assert server.asked[0].path == "/prometheus/api/v1/query"


def test_placeholders_are_filled_in_and_quoted() -> None:
    values = {"model": 'a"b\\', "interval": "30s"}
    assert filled('rate(x{m="{{model}}"}[{{interval}}])', values) == 'rate(x{m="a\\"b\\\\"}[30s])'


def test_a_number_is_found_in_the_api_s_answer() -> None:
    assert number({"resultType": "scalar", "result": [1.0, "NaN"]}) == NoData("NaN")
    assert number({"resultType": "vector", "result": []}) == NoData("no series")
