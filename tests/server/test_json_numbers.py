"""Many floats at once have the same texts as each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from servekit.server.json_numbers import FEW, compact_text, float_tokens

RANDOM = np.random.default_rng(5)
POWERS = np.array([10.0**power for power in range(-10, 11)] * 2, np.float32)
SETS: dict[str, NDArray[Any]] = {
    "normal": RANDOM.standard_normal(5000).astype(np.float32),
    "three decimals": np.round(RANDOM.standard_normal(5000) * 100, 3).astype(np.float32),
    "all sizes": (10 ** RANDOM.uniform(-45, 38, 5000)).astype(np.float32),
    "plain sizes": (10 ** RANDOM.uniform(-5, 7, 5000)).astype(np.float32),
    "small": (10 ** RANDOM.uniform(-15, -3, 20_000)).astype(np.float32),
    "small with few digits": np.array([f"{n}e{e}" for n in range(1, 1000, 7) for e in range(-16, -5)], np.float32),
    "nines": np.array([f"0.{'9' * n}{d}e{e}" for n in range(3, 8) for d in range(10) for e in range(-15, 7)], "f4"),
    "eighths": (np.arange(-20_000, 20_000) / 8).astype(np.float32),
    "powers of ten": POWERS,
    "below powers of ten": np.nextafter(POWERS, np.float32(0)),
    "above powers of ten": np.nextafter(POWERS, np.float32(1e30)),
    "not finite": np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5] * 10, np.float32),
    "doubles": RANDOM.standard_normal(5000),
}


def test_an_array_is_written_as_lists_of_these_texts() -> None:
    values = SETS["plain sizes"].reshape(50, 10, 10)
    values[3, :, 4] = np.nan
    text = compact_text(values).decode()
    rows = [[",".join(float_tokens(row)) for row in matrix] for matrix in values]
    assert text == "[" + ",".join("[" + ",".join(f"[{row}]" for row in matrix) + "]" for matrix in rows) + "]"
    assert compact_text(values.transpose(2, 0, 1)) == compact_text(values.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("name", SETS)
def test_many_are_written_like_one(name: str) -> None:
    values = SETS[name]
    alone = [token for start in range(0, len(values), FEW) for token in float_tokens(values[start : start + FEW])]
    assert float_tokens(values) == alone
