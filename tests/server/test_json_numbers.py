"""Many floats at once have the same texts as each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from servekit.server.json_numbers import FEW, float_tokens

RANDOM = np.random.default_rng(5)
POWERS = np.array([10.0**power for power in range(-10, 11)] * 2, np.float32)
SETS: dict[str, NDArray[Any]] = {
    "normal": RANDOM.standard_normal(5000).astype(np.float32),
    "three decimals": np.round(RANDOM.standard_normal(5000) * 100, 3).astype(np.float32),
    "all sizes": (10 ** RANDOM.uniform(-45, 38, 5000)).astype(np.float32),
    "plain sizes": (10 ** RANDOM.uniform(-5, 7, 5000)).astype(np.float32),
    "eighths": (np.arange(-20_000, 20_000) / 8).astype(np.float32),
    "powers of ten": POWERS,
    "below powers of ten": np.nextafter(POWERS, np.float32(0)),
    "above powers of ten": np.nextafter(POWERS, np.float32(1e30)),
    "not finite": np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5] * 10, np.float32),
    "doubles": RANDOM.standard_normal(5000),
}


@pytest.mark.parametrize("name", SETS)
def test_many_are_written_like_one(name: str) -> None:
    values = SETS[name]
    alone = [token for start in range(0, len(values), FEW) for token in float_tokens(values[start : start + FEW])]
    assert float_tokens(values) == alone
