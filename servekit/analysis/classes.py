"""A classifier's answers: which outputs they are, and whether two say about the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]

MANY = 20
"""Classes from which two that look alike may change places."""
LISTED = 5
"""A shorter list holds all classes."""

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


def differ(stable: Outputs, canary: Outputs, score: str, top: int, shift: float) -> str:
    """Of one row; empty where each one's best class is among the other's best `top`, and the probability of stable's
    best class has shifted by at most `shift`. Where the classes are few, the best one has to be the same.
    """
    mine, other = ranked(stable, score), ranked(canary, score)
    if not mine and not other:
        return ""
    if not mine:
        return "stable NaN, canary has an answer"
    best, its = next(iter(mine.items()))
    if not other:
        return f"{_shown(best)} {its:.2f}, canary NaN"
    others_best, others = next(iter(other.items()))
    count = 1 if _are_few(stable, score) else top
    near = best in list(other)[:count] and others_best in list(mine)[:count]
    if near and abs(its - other.get(best, 0.0)) <= shift:
        return ""
    return f"{_shown(best)} {its:.2f}, canary {_shown(others_best)} {others:.2f}"


def ranked(outputs: Outputs, score: str) -> dict[Any, float]:
    """Of one row: class (its name, else its number) to score (logits: after softmax), best first; empty where one is
    NaN."""
    scores = np.asarray(outputs[score], dtype=np.float64).ravel()
    if not scores.size or np.isnan(scores).any():
        return {}
    if "logit" in score:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    listed = next((outputs[name].ravel() for name in outputs if name != score), np.arange(scores.size))
    return {listed[index]: float(scores[index]) for index in np.argsort(-scores, kind="stable")}


def _are_few(outputs: Outputs, score: str) -> bool:
    """All classes are here and are not many: a list of the best ones would have left some probability to others."""
    scores = np.asarray(outputs[score], dtype=np.float64)
    if len(outputs) == 1:
        return scores.size < MANY
    return scores.size < LISTED or (scores.size < MANY and float(scores.sum()) > 0.99)


def _shown(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else f"class {label}"


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _are_probabilities(scores: NDArray[Any]) -> bool:
    values = scores.astype(np.float64)
    return bool(values.size and (values >= 0).all() and (abs(values.sum(axis=1) - 1) < 1e-2).all())
