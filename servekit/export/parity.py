"""How far the exported model's answers are from the expected ones, in numbers that a person can judge."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from servekit.export.recipe import Array, Check, Limit


@dataclass(frozen=True, slots=True)
class Parity:
    name: str
    max_abs: float | None
    mean_abs: float | None
    agreement: float
    limit: Limit
    unit: str
    ok: bool

    def __str__(self) -> str:
        parts = []
        if self.limit.max_abs is not None:
            parts.append(f"max {_short(self.max_abs)} (limit {self.limit.max_abs:g})")
        if self.limit.mean_abs is not None:
            parts.append(f"mean {_short(self.mean_abs)} (limit {self.limit.mean_abs:g})")
        text = ", ".join(parts) + (f" {self.unit}" if self.unit else "")
        if self.limit.agreement is not None:
            text = ", ".join(filter(None, [text, f"{self.agreement:.1%} equal (limit {self.limit.agreement:.1%})"]))
        return f"{self.name}: {text}"


def _short(value: float | None) -> str:
    return "not comparable" if value is None else f"{value:.2g}"


def compare(check: Check, actual: Array) -> Parity:
    """`actual` may have more columns than are expected (top 5 where top 1 is asked); its leading part is compared.

    Differences that are not numbers (NaN in one of the two, unequal shapes) are failures.
    """
    expected, limit = check.expected, check.limit
    if check.images:
        actual = _pixels(actual)
    elif actual.ndim == expected.ndim:
        actual = actual[tuple(slice(size) for size in expected.shape)]
    max_abs = mean_abs = None
    if actual.shape != expected.shape:
        return Parity(check.name, None, None, 0.0, limit, check.unit, ok=False)
    if expected.dtype.kind in "biufc" and expected.size:
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)) * check.scale
        max_abs, mean_abs = float(difference.max()), float(difference.mean())
    agreement = float(np.mean(actual == expected)) if expected.size else 1.0
    ok = (
        _within(max_abs, limit.max_abs)
        and _within(mean_abs, limit.mean_abs)
        and (limit.agreement is None or agreement >= limit.agreement)
    )
    return Parity(check.name, _finite(max_abs), _finite(mean_abs), agreement, limit, check.unit, ok)


def _pixels(files: Array) -> Array:
    """Of image files [batch] of one size: uint8 [batch, height, width, ...], class ids where they have a palette.

    Empty where one is no image, which is unequal to anything expected.
    """
    from PIL import Image

    try:
        images = [Image.open(io.BytesIO(data)) for data in files.ravel().tolist()]
        return np.stack([np.asarray(image) for image in images])
    except (OSError, TypeError, ValueError):
        return np.empty((0,), np.uint8)


def _within(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)  # NaN <= limit is False


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
