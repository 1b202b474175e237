"""A classifier's answers: which outputs they are, and whether two say the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]

_SCORES = ("probabilities", "probability", "probs", "softmax", "scores", "confidences", "logits")
_LABELS = ("labels", "classes", "label_names", "class_names")
_IDS = ("class_ids", "classes", "labels", "ids")


def score_output(outputs: Outputs, names: Sequence[str]) -> str | None:
    """Of `names`, the output with the scores of classes, float [batch, k]; None for what is no classifier.

    Beside labels or class ids of the same shape any numbers will do. Without them it must be named logits or
    probabilities, or every row must be one: not negative, with the sum 1.
    """
    floats = [name for name in names if outputs[name].ndim == 2 and _is_float(outputs[name])]
    ordered = sorted(floats, key=lambda name: _SCORES.index(name) if name in _SCORES else len(_SCORES))
    for name in ordered:
        if name in _SCORES and companions(outputs, name):
            return name
    for name in ordered:
        if outputs[name].shape[1] > 1 and ("logit" in name or _are_probabilities(outputs[name])):
            return name
    return None


def companions(outputs: Outputs, score: str) -> tuple[str, ...]:
    """The output with the names, else the numbers of the classes whose scores these are; none: their order says it."""
    shape = outputs[score].shape
    texts = [name for name in _LABELS if name in outputs and outputs[name].dtype.kind in "OSU"]
    ids = [name for name in _IDS if name in outputs and outputs[name].dtype.kind in "iu"]
    return tuple(name for name in (*texts, *ids) if outputs[name].shape == shape)[:1]


def differ(stable: Outputs, canary: Outputs, score: str, shift: float) -> str:
    """Of one row; empty where the best class is the same and its probability has shifted by at most `shift`."""
    (mine, its), (other, others) = _best(stable, score), _best(canary, score)
    if mine == other and abs(its - others) <= shift:
        return ""
    return f"{_shown(mine)} {its:.2f}, canary {_shown(other)} {others:.2f}"


def _best(outputs: Outputs, score: str) -> tuple[Any, float]:
    scores = np.asarray(outputs[score], dtype=np.float64).ravel()
    if not scores.size or np.isnan(scores).any():
        return None, float("nan")
    if "logit" in score:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    best = int(np.argmax(scores))
    others = [name for name in outputs if name != score]
    return (outputs[others[0]].ravel()[best] if others else best), float(scores[best])


def _shown(label: Any) -> str:
    if label is None:
        return "NaN"
    return label.decode(errors="replace") if isinstance(label, bytes) else f"class {label}"


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _are_probabilities(scores: NDArray[Any]) -> bool:
    values = scores.astype(np.float64)
    return bool(values.size and (values >= 0).all() and (abs(values.sum(axis=1) - 1) < 1e-2).all())
