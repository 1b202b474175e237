from __future__ import annotations

import math

from servekit.analysis.looks import Looks
from servekit.analysis.tally import Tally
from servekit.analysis.verdict import NoData, Window


def tally(requests: float) -> Tally:
    return Tally(requests, buckets=((math.inf, requests),))


def looks(*readings: tuple[float, float]) -> Looks:
    """Readings of (stable, canary), ten seconds apart."""
    found = Looks()
    for index, (stable, canary) in enumerate(readings):
        found = found.seen(10.0 * index, {"stable": tally(stable), "canary": tally(canary)})
    return found


def window(found: Looks, since_s: float = 0, least_stable: int = 0) -> Window:
    result = found.window(since_s, least_stable)
    assert isinstance(result, Window)
    return result


def test_one_look_has_nothing_to_compare_with() -> None:
    assert isinstance(looks((100, 10)).window(0, 0), NoData)


def test_what_was_counted_before_the_first_look_does_not_count() -> None:
    found = window(looks((1000, 100), (1090, 110)))
    assert (found.stable.requests, found.canary.requests, found.seconds) == (90, 10, 10)


def test_the_window_begins_where_it_was_judged_last() -> None:
    found = looks((0, 0), (100, 10), (200, 20), (300, 30))
    assert (window(found).seconds, window(found).canary.requests) == (30, 30)
    assert (window(found, 10).seconds, window(found, 10).canary.requests) == (20, 20)
    assert (window(found, 30).seconds, window(found, 30).canary.requests) == (0, 0)


def test_a_stable_that_gets_no_more_requests_is_compared_by_its_earlier_ones() -> None:
    found = looks((0, 0), (500, 10), (500, 300))
    assert window(found, 10).stable.requests == 0
    assert window(found, 10, least_stable=20).stable.requests == 500
    assert window(found, 10, least_stable=20).canary.requests == 290


def test_a_gateway_that_starts_anew_loses_no_count() -> None:
    found = window(looks((900, 90), (1000, 100), (50, 5), (150, 15)))
    assert (found.stable.requests, found.canary.requests) == (250, 25)


def test_a_label_that_appears_later_counts_from_nothing() -> None:
    found = Looks().seen(0, {"stable": tally(5)}).seen(10, {"stable": tally(9), "canary": tally(3)})
    assert window(found).canary.requests == 3
    gone = found.seen(20, {"stable": tally(19)})
    assert window(gone).canary.requests == 3


def test_old_readings_are_forgotten() -> None:
    found = looks(*((index, index) for index in range(1200)))
    assert len(found.totals) == 1000
