from __future__ import annotations

import json
import math
from typing import Any

import pytest

from servekit.analysis.tally import Tally
from servekit.analysis.verdict import (
    Agreed,
    Answer,
    Check,
    NoData,
    Readings,
    Verdict,
    Window,
    agreement,
    judge,
    p99_ratio,
    read,
    success_rate,
)
from servekit.config.canary import Analysis, Gate, Query

INF = math.inf
OFF: dict[str, Any] = {"success_rate": "off", "p99_ratio": "off", "agreement": {"minimum": "off"}}


def latencies(fast: float, slow: float) -> Tally:
    """Requests of 5 to 10 ms, and of 80 to 100 ms."""
    return Tally(
        fast + slow, buckets=((5.0, 0.0), (10.0, fast), (80.0, fast), (100.0, fast + slow), (INF, fast + slow))
    )


def rate(canary: Tally, stable: Tally, minimum: float = 99, least: int = 20) -> Check:
    return success_rate(Window(stable, canary, 30.0), minimum, least)


@pytest.mark.parametrize(
    ("canary", "stable", "result", "value"),
    [
        (Tally(100), Tally(900), "pass", 100),
        (Tally(1000, server_errors=10), Tally(900), "pass", 99),
        (Tally(1000, server_errors=11), Tally(900), "fail", 98.9),
        (Tally(100, server_errors=100), Tally(900), "fail", 0),
        (Tally(19), Tally(900), "no data", None),
        (Tally(20), Tally(0), "pass", 100),
        # Clients that send nonsense to both labels say nothing about the canary.
        (Tally(100, client_errors=10), Tally(900, client_errors=90), "pass", 100),
        (Tally(100, client_errors=1), Tally(900), "pass", 100),
        # A canary that refuses what stable takes.
        (Tally(100, client_errors=100), Tally(900), "fail", 0),
        (Tally(100, client_errors=60), Tally(900, client_errors=90), "fail", 50),
    ],
    ids=[
        "all well", "just well enough", "a few too many", "nothing works", "too few", "stable is not asked",
        "nonsense to both", "one client's mistake", "another signature", "another signature for half",
    ],
)  # fmt: skip
def test_success_rate(canary: Tally, stable: Tally, result: str, value: float | None) -> None:
    check = rate(canary, stable)
    assert check.result == result
    assert check.value == (None if value is None else pytest.approx(value))


def test_success_rate_of_no_requests_is_no_data_even_if_none_are_asked_for() -> None:
    assert rate(Tally(0), Tally(1000), least=0).result == "no data"


@pytest.mark.parametrize(
    ("stable", "canary", "result"),
    [
        (latencies(1000, 0), latencies(1000, 0), "pass"),
        (latencies(2000, 0), latencies(0, 2000), "fail"),
        # Few requests, all slow: no chance.
        (latencies(1000, 0), latencies(0, 20), "fail"),
        # The slowest of 30 is not a p99.
        (latencies(1000, 0), latencies(29, 1), "no data"),
        (latencies(1000, 0), latencies(25, 5), "fail"),
        (latencies(2000, 0), latencies(1970, 30), "fail"),
        (latencies(10, 0), latencies(1000, 0), "no data"),
        (latencies(1000, 0), latencies(10, 0), "no data"),
        (latencies(900, 100), latencies(1000, 0), "pass"),
    ],
    ids=[
        "alike", "slow", "few and all slow", "one of a few", "some of a few", "many, and 1.5 % are slow",
        "stable is not asked enough", "the canary is not", "faster",
    ],
)  # fmt: skip
def test_p99_ratio(stable: Tally, canary: Tally, result: str) -> None:
    assert p99_ratio(Window(stable, canary, 30.0), 1.5, 20).result == result


@pytest.mark.parametrize(
    ("agreed", "result"),
    [
        (Agreed(9, 10, "masks"), "pass"),
        (Agreed(7, 10, "masks"), "fail"),
        (Agreed(0, 0, "answers", left_out=("cat.jpg: no image",)), "no data"),
        (NoData("the labels do not answer"), "no data"),
    ],
    ids=["enough", "too few", "nothing could be asked", "nobody answers"],
)
def test_agreement(agreed: Agreed | NoData, result: str) -> None:
    assert agreement(agreed, 0.8).result == result


@pytest.mark.parametrize(
    ("value", "result"),
    [(0.5, "pass"), (0.0, "fail"), (2.0, "fail"), (INF, "fail"), (NoData("no series"), "no data")],
    ids=str,
)
def test_a_query_is_held_against_both_bounds(value: float | NoData, result: str) -> None:
    analysis = Analysis(**OFF, queries={"load": Query(query="x", minimum=0.1, maximum=1.0)})
    verdict = judge(analysis, Readings(queries={"load": value}))
    assert verdict.result == result
    assert [check.name for check in verdict.checks] == ["queries.load"]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"a": True, "b": True}, "pass"),
        ({"a": True, "b": False}, "fail"),
        ({"a": True}, "no data"),
        ({"b": False}, "fail"),
        ({}, "no data"),
    ],
    ids=["all pass", "one fails", "one is missing", "one fails and one is missing", "none"],
)
def test_a_failure_outweighs_what_is_missing_and_that_what_passes(results: dict[str, bool], expected: str) -> None:
    analysis = Analysis(**OFF, gates={name: Gate(url=f"http://{name}") for name in "ab"})
    readings = Readings(gates={name: Answer(passed, "") for name, passed in results.items()})
    assert judge(analysis, readings).result == expected


def test_what_is_off_is_not_checked() -> None:
    assert judge(Analysis(**OFF), Readings()) == Verdict("pass", ())


def test_without_any_reading_the_verdict_waits() -> None:
    verdict = judge(Analysis(), Readings())
    assert verdict.result == "no data"
    assert [check.name for check in verdict.checks] == ["success_rate", "p99_ratio", "agreement"]


def test_a_verdict_is_printed_one_line_a_check() -> None:
    readings = Readings(
        traffic=Window(Tally(9000), Tally(1203, server_errors=2), 30.0),
        latency=Window(latencies(1000, 0), latencies(1200, 3), 30.0),
        agreement=Agreed(15, 20, "best classes", ("cat.jpg: tabby 0.81, canary tiger cat 0.44",)),
    )
    assert str(judge(Analysis(), readings)).splitlines() == [
        "pass    success rate 99.83 % (≥ 99): 1203 requests in 30 s, 2 failed",
        "pass    p99 ratio 1.001 (≤ 1.5): canary 9.96 ms, stable 9.95 ms, 1203 requests",
        "fail    agreement 0.75 (≥ 0.8): 15 of 20 best classes alike; cat.jpg: tabby 0.81, canary tiger cat 0.44",
    ]


def test_the_reason_names_what_decided() -> None:
    readings = Readings(
        traffic=Window(Tally(9000), Tally(100), 30.0),
        latency=NoData("the gateway does not answer"),
        agreement=Agreed(1, 20, "masks"),
    )
    assert judge(Analysis(), readings).reason == "agreement 0.05 (≥ 0.8): 1 of 20 masks alike"


def test_a_verdict_survives_json_and_infinity_is_null_there() -> None:
    verdict = Verdict("fail", (Check("queries.x", "fail", INF, "≤ 1", "too much"),), "2026-11-22T10:00:00+00:00")
    again = read(json.loads(json.dumps(verdict.document(), allow_nan=False)))
    assert again == Verdict("fail", (Check("queries.x", "fail", None, "≤ 1", "too much"),), verdict.at)
