from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servekit.export.parity import compare
from servekit.export.recipe import Check, Limit


def check(expected: Any, limit: Limit, scale: float = 1.0) -> Check:
    return Check("answers", "serving_default", {}, "y", np.asarray(expected), limit, scale=scale)


@pytest.mark.parametrize(
    ("expected", "actual", "limit", "ok"),
    [
        ([1.0, 2.0], [1.0, 2.1], Limit(max_abs=0.2), True),
        ([1.0, 2.0], [1.0, 2.3], Limit(max_abs=0.2), False),
        ([1.0, 2.0], [1.0, 2.3], Limit(mean_abs=0.2), True),
        ([1.0, 2.0], [1.0, np.nan], Limit(max_abs=0.2), False),
        ([1.0, 2.0], [[1.0, 2.0]], Limit(max_abs=0.2), False),
        ([[3], [4]], [[3, 9], [4, 9]], Limit(agreement=1.0), True),
        ([[3], [4]], [[3, 9], [5, 9]], Limit(agreement=1.0), False),
        ([[3], [4]], [[3, 9], [5, 9]], Limit(agreement=0.5), True),
        ([b"cat"], [b"cat"], Limit(agreement=1.0), True),
    ],
    ids=["near", "far", "far once", "not a number", "shape", "leading part", "one differs", "half allowed", "text"],
)
def test_an_answer_is_good_within_every_limit(expected: Any, actual: Any, limit: Limit, ok: bool) -> None:
    assert compare(check(expected, limit), np.asarray(actual)).ok is ok


def test_differences_are_given_in_the_checks_unit() -> None:
    result = compare(check([0.0, 0.5], Limit(max_abs=1.0), scale=128), np.asarray([0.0, 0.5 + 1 / 128]))
    assert result.max_abs == pytest.approx(1.0)
    assert result.mean_abs == pytest.approx(0.5)


def test_a_difference_that_is_no_number_prints_and_fails() -> None:
    result = compare(check([1.0], Limit(max_abs=1.0)), np.asarray([np.inf]))
    assert "not comparable" in str(result)
    assert not result.ok
