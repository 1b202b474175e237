from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from servekit.client.ranking import flags, rankings

OUTPUTS = {
    "probabilities": np.array([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]]),
    "labels": np.array([[b"a", b"b", b"c"]] * 2, object),
}


def test_classes_come_best_first_with_the_flag_of_their_row() -> None:
    ranked = rankings({**OUTPUTS, "valid": np.array([True, False])}, 2)
    assert ranked is not None
    first, second = ranked
    assert [(one.label, one.probability) for one in first.classes] == [("b", 0.7), ("a", 0.2)]
    assert (first.valid, second.valid) == (True, False)


@pytest.mark.parametrize(
    "other",
    [np.array(True), np.array([True]), np.ones((2, 3), bool), np.array([b"yes", b"no"], object), np.zeros((0,))],
    ids=["scalar", "one for all", "one a class", "strings", "none"],
)
def test_an_output_called_valid_that_is_no_flag_for_each_row_is_none(other: NDArray[Any]) -> None:
    ranked = rankings({**OUTPUTS, "valid": other}, 1)
    assert ranked is not None
    assert [one.valid for one in ranked] == [True, True]
    assert flags({"valid": other}, 2) is None
