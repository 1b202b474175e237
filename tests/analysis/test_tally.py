from __future__ import annotations

import math

import pytest

from servekit.analysis.tally import (
    Tally,
    above,
    chance_of_excess,
    chance_of_tail,
    merged,
    quantile,
    since,
)

INF = math.inf
BUCKETS = ((10.0, 50.0), (20.0, 90.0), (40.0, 100.0), (INF, 100.0))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 10.0), (0.25, 5.0), (0.7, 15.0), (0.9, 20.0), (0.99, 38.0), (1.0, 40.0)],
)
def test_a_quantile_is_linear_inside_its_bucket_as_prometheus_has_it(share: float, expected: float) -> None:
    assert quantile(BUCKETS, share) == pytest.approx(expected)


def test_beyond_the_last_finite_bound_a_quantile_is_that_bound() -> None:
    assert quantile(((10.0, 50.0), (INF, 100.0)), 0.99) == 10.0


@pytest.mark.parametrize("buckets", [(), ((10.0, 0.0), (INF, 0.0))], ids=["none", "empty"])
def test_nothing_counted_has_no_quantile(buckets: tuple[tuple[float, float], ...]) -> None:
    assert quantile(buckets, 0.99) is None


@pytest.mark.parametrize(("ms", "expected"), [(0, 100), (10, 50), (15, 30), (40, 0), (99, 0)])
def test_how_many_took_longer_is_linear_inside_a_bucket(ms: float, expected: float) -> None:
    assert above(BUCKETS, ms) == pytest.approx(expected)


def test_what_lies_beyond_the_last_bound_took_longer_than_anything() -> None:
    assert above(((10.0, 50.0), (INF, 100.0)), 500) == 50


def test_histograms_with_other_bounds_are_added_at_their_next_lower_one() -> None:
    assert merged([((10.0, 1.0), (INF, 2.0)), ((20.0, 5.0), (INF, 6.0))]) == ((10.0, 1.0), (20.0, 6.0), (INF, 8.0))


def test_between_two_readings_is_their_difference() -> None:
    before, now = Tally(10, 1, 2, ((1.0, 4.0), (INF, 10.0))), Tally(30, 2, 4, ((1.0, 14.0), (INF, 30.0)))
    assert since(before, now) == Tally(20, 1, 2, ((1.0, 10.0), (INF, 20.0)))


@pytest.mark.parametrize(
    "now",
    [Tally(3), Tally(12, 0, 2), Tally(12, 1, 0), Tally(12, 1, 2, ((1.0, 3.0), (INF, 12.0)))],
    ids=["requests", "server errors", "client errors", "one bucket"],
)
def test_a_counter_that_fell_is_that_of_a_gateway_started_anew(now: Tally) -> None:
    assert since(Tally(10, 1, 2, ((1.0, 4.0), (INF, 10.0))), now) == now


def test_the_binomial_tail() -> None:
    assert chance_of_tail(0, 100, 0.01) == 1
    assert chance_of_tail(1, 100, 0.01) == pytest.approx(1 - 0.99**100)
    assert chance_of_tail(100, 100, 0.01) == pytest.approx(0, abs=1e-12)
    assert chance_of_tail(5, 20, 0.01) < 1e-5


def test_fishers_exact_test() -> None:
    # All of 2 marked requests in a group of 20 of 200: 20·19 / (200·199).
    assert chance_of_excess(2, 20, 0, 180) == pytest.approx(380 / 39800)
    assert chance_of_excess(0, 20, 5, 180) == 1
    assert chance_of_excess(2, 20, 18, 180) > 0.5
    assert chance_of_excess(3, 10, 0, 0) == pytest.approx(1)
