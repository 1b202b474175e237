"""The best classes of an image classifier's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ranked:
    """`probability` in [0, 1]; `class_id` is the index of the model's class, None if the model does not say it."""

    label: str
    probability: float
    class_id: int | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """One image's classes, best first. `valid` is False where the model could not read the image."""

    valid: bool
    classes: tuple[Ranked, ...]


def rankings(outputs: Mapping[str, NDArray[Any]], top: int) -> list[Ranking] | None:
    """One for each image, or None when these are not a classifier's outputs.

    Reads `probabilities` float [batch, k], with them `labels` string and `class_ids` int of the same shape, and `valid`
    bool [batch] if it is there; an output of that name and another shape or type is no such flag. Without class ids the
    k probabilities are those of all classes in their order.
    """
    probabilities, labels, class_ids = (outputs.get(name) for name in ("probabilities", "labels", "class_ids"))
    if probabilities is None or probabilities.ndim != 2:
        return None
    if any(other is not None and other.shape != probabilities.shape for other in (labels, class_ids)):
        return None
    valid = flags(outputs, len(probabilities))
    result = []
    for row, values in enumerate(probabilities):
        best = np.argsort(-values, kind="stable")[:top]
        classes = (
            Ranked(
                "" if labels is None else labels[row, column].decode(errors="replace"),
                float(values[column]),
                int(class_ids[row, column]) if class_ids is not None else int(column) if labels is None else None,
            )
            for column in best
        )
        result.append(Ranking(valid is None or valid[row], tuple(classes)))
    return result


def flags(outputs: Mapping[str, NDArray[Any]], count: int) -> list[bool] | None:
    """`valid`, one for each of `count` rows; None where the outputs have no flag of that shape."""
    valid = outputs.get("valid")
    if valid is None or valid.shape != (count,) or valid.dtype.kind not in "biuf":
        return None
    return [bool(one) for one in valid]
