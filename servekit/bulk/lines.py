"""One line of a results file: what was asked about one image, and the answer.

file            path relative to the folder, with `/`
bytes           the file's size when it was read
model, signature, asked_label, asked_version
                the question; label and version are null where none was given
version         the version that answered; null when none did
valid           false where the model could not read the image; null when it was not asked or does not say
labels, probabilities, class_ids
                a classifier's best classes, best first
outputs         all other outputs by name, `{"b64": …}` for bytes that are no text
files           `*_bytes` outputs by name: the file below --output-dir
error           null, or why there is no answer
milliseconds    of the request that the image was in
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from servekit.client.ranking import flags, rankings
from servekit.errors import ServekitError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec

Line = dict[str, Any]

FIRST_BYTES = b'{"file":'
"""Every line starts like this, so that a half line of ours is told from another program's file."""

CANNOT_READ = "the model cannot read this image"


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asked for, and the version that it stood for when the run began."""

    spec: ModelSpec
    version: int

    @property
    def pinned(self) -> ModelSpec:
        """The whole run asks this one version, also when the label moves meanwhile."""
        return ModelSpec(self.spec.name, self.version, None, self.spec.signature_name)

    def members(self) -> Line:
        return {
            "model": self.spec.name,
            "signature": self.spec.signature_name or DEFAULT_SIGNATURE,
            "asked_label": self.spec.version_label,
            "asked_version": self.spec.version,
        }


def failed(question: Question, name: str, size_bytes: int, error: str, milliseconds: float = 0.0) -> Line:
    line = {"file": name, "bytes": size_bytes, **question.members(), "version": None, "valid": None}
    return {**line, "error": error, "milliseconds": milliseconds}


def answered(
    question: Question, sizes: Mapping[str, int], outputs: Mapping[str, NDArray[Any]], top: int, milliseconds: float
) -> list[Line]:
    """One line for each name in `sizes` (bytes by name), in that order, which is the order of the outputs' rows.

    Raises ServekitError when an output does not have one row an image.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != len(sizes):
            raise ServekitError(
                f"{question.spec.name}: output {name} has the shape {list(array.shape)} for {len(sizes)} images; "
                "one row an image is expected"
            )
    ranked = rankings(outputs, top)
    valid = flags(outputs, len(sizes))
    shown = {"labels", "probabilities", "class_ids"} if ranked is not None else set()
    others = {
        name: array for name, array in outputs.items() if name not in shown and (name != "valid" or valid is None)
    }
    lines = []
    for row, (file, size_bytes) in enumerate(sizes.items()):
        is_valid = None if valid is None else valid[row]
        line: Line = {"file": file, "bytes": size_bytes, **question.members(), "version": question.version}
        line["valid"] = is_valid
        if is_valid is not False:
            if ranked is not None:
                classes = ranked[row].classes
                line["labels"] = [one.label for one in classes]
                line["probabilities"] = [one.probability for one in classes]
                line["class_ids"] = [one.class_id for one in classes]
            if others:
                line["outputs"] = {name: _plain(_row(array, row)) for name, array in others.items()}
        line["error"] = CANNOT_READ if is_valid is False else None
        line["milliseconds"] = milliseconds
        lines.append(line)
    return lines


def encoded(line: Line) -> bytes:
    """With its newline. Outputs that are still bytes become text, or `{"b64": …}` where they are none."""
    try:
        return orjson.dumps(line, default=_text_of) + b"\n"
    except TypeError:  # a file name that is not UTF-8
        return json.dumps(line, default=_text_of, separators=(",", ":")).encode() + b"\n"


def decoded(data: bytes) -> Line:
    """Raises ValueError for anything that is not a line of ours."""
    try:
        line = orjson.loads(data)
    except orjson.JSONDecodeError:
        line = json.loads(data.decode())
    if not isinstance(line, dict) or not {"file", "bytes", "model", "version", "error"} <= set(line):
        raise ValueError("not a result of `servekit predict MODEL FOLDER`")
    return line


def printable(name: str) -> str:
    """For a terminal and for JSON: bytes that are not UTF-8 as `\\udcff`, control characters escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _row(array: NDArray[Any], row: int) -> Any:
    value = array[row]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return [value.real, value.imag] if isinstance(value, complex) else value


def _text_of(value: Any) -> Any:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} in a result")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
