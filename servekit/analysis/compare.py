"""Whether two versions' answers to the same request are alike, by what kind of output they are. Pure.

The kind is found in stable's answer: classes, else masks, else images, else every output by itself (texts and class ids
equal, numbers close). Rows of a batch are compared one by one where all compared outputs have the same first dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servekit.analysis import classes, pictures
from servekit.client.ranking import flags
from servekit.config.canary import Agreement

Outputs = Mapping[str, NDArray[Any]]
Kind = Literal["best classes", "masks", "images", "answers"]

_FLAG = "valid"
_ID_WORDS = ("class", "label", "index", "indices")


class CannotCompare(Exception):
    """The text says what stable's answer lacks."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Of the `asked` rows that stable could answer, `same` are alike; `differing` has a text for each that is not."""

    same: int
    asked: int
    kind: Kind
    differing: tuple[str, ...]


def compare(stable: Outputs, canary: Outputs, agreement: Agreement) -> Compared:
    """Raises CannotCompare where stable has not the output that was asked for, or none at all."""
    kind, names = chosen(stable, agreement.output)
    companions = classes.companions(stable, names[0]) if kind == "best classes" else ()
    used = (*names, *companions)
    rows = _rows(stable, used)
    if missing := [name for name in used if name not in canary]:
        return Compared(0, max(1, rows), kind, (f"canary has no output {missing[0]}",))
    if rows and _rows(canary, used) != rows:
        return Compared(0, rows, kind, (f"canary answers {_rows(canary, used)} rows instead of {rows}",))
    good, good_too = flags(stable, rows), flags(canary, rows)
    results = []
    for row in range(max(1, rows)):
        if good and not good[row]:
            continue
        if good_too and not good_too[row]:
            results.append("canary says that it is not valid")
            continue
        mine, other = (
            {name: outputs[name][row] if rows else outputs[name] for name in used} for outputs in (stable, canary)
        )
        try:
            results.append(_differ(kind, names, mine, other, agreement))
        except pictures.NoPillow as error:
            raise CannotCompare(str(error)) from None
        except pictures.NoPicture:  # of stable: left out
            continue
    return _compared(results, kind)


def chosen(outputs: Outputs, output: str | None = None) -> tuple[Kind, tuple[str, ...]]:
    """The kind, and the outputs that are compared: those of the first kind that is there, or the one declared."""
    if output is not None and output not in outputs:
        raise CannotCompare(f"stable's answer has no output {output}; it has {', '.join(outputs) or 'none'}")
    names = [output] if output else [name for name in outputs if name != _FLAG]
    if not names:
        raise CannotCompare("stable's answer has no outputs")
    if score := classes.score_output(outputs, names):
        return "best classes", (score,)
    if masks := [name for name in names if pictures.is_mask(name, outputs[name])]:
        return "masks", tuple(masks)
    if images := [name for name in names if pictures.is_image(outputs[name])]:
        return "images", tuple(images)
    return "answers", tuple(names)


def _differ(kind: Kind, names: Sequence[str], stable: Outputs, canary: Outputs, agreement: Agreement) -> str:
    """Empty when alike, else how they differ. Outputs of one row, or whole ones where there are no rows."""
    if kind == "best classes":
        return classes.differ(stable, canary, names[0], agreement.top, agreement.probability_shift)
    for name in names:
        if kind == "masks":
            text = pictures.masks_differ(stable[name], canary[name], agreement.mask_iou)
        elif kind == "images":
            text = pictures.images_differ(stable[name], canary[name], agreement.image_psnr)
        else:
            text = values_differ(name, stable[name], canary[name], agreement.relative_error)
        if text:
            return f"{name}: {text}"
    return ""


def values_differ(name: str, stable: Any, canary: Any, relative_error: float) -> str:
    """Texts, truth values and class ids (by the output's name) have to be equal, other numbers close (L2)."""
    mine, other = np.asarray(stable), np.asarray(canary)
    if mine.shape != other.shape:
        return f"shape {list(other.shape)} instead of {list(mine.shape)}"
    if (mine.dtype.kind in "OSU") != (other.dtype.kind in "OSU"):
        return "text and number"
    is_id = mine.dtype.kind in "iu" and any(word in name.lower() for word in _ID_WORDS)
    if mine.dtype.kind in "OSUb" or is_id or name.lower() in ("id", "ids"):
        equal = mine == other
        wrong = int(np.size(equal) - np.count_nonzero(equal))
        return f"{wrong} of {np.size(equal)} values differ" if wrong else ""
    error = relative_l2(mine, other)
    return "" if error <= relative_error else f"relative difference {error:.3g}"


def relative_l2(stable: NDArray[Any], canary: NDArray[Any]) -> float:
    """‖canary - stable‖ / ‖stable‖; infinite where one has a NaN or an infinity that the other has not."""
    dtype = np.complex128 if stable.dtype.kind == "c" or canary.dtype.kind == "c" else np.float64
    mine, other = stable.astype(dtype).ravel(), canary.astype(dtype).ravel()
    odd = ~(np.isfinite(mine) & np.isfinite(other))
    if not np.array_equal(mine[odd], other[odd], equal_nan=True):
        return float("inf")
    mine, other = mine[~odd], other[~odd]
    difference, size = float(np.linalg.norm(other - mine)), float(np.linalg.norm(mine))
    return 0.0 if difference == 0 else difference / size if size else float("inf")


def _rows(outputs: Outputs, names: Sequence[str]) -> int:
    """The first dimension, if all have the same; 0 where there is none."""
    sizes = {outputs[name].shape[0] if outputs[name].ndim else 0 for name in names}
    return sizes.pop() if len(sizes) == 1 else 0


def _compared(results: Sequence[str], kind: Kind) -> Compared:
    differing = tuple(text for text in results if text)
    return Compared(len(results) - len(differing), len(results), kind, differing)
