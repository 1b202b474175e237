"""The JSON of REST answers, byte for byte as TF Serving writes it, irregular layout included.

Its writer is RapidJSON's PrettyWriter, switched to one-line lists inside rows: hence `"predictions": [3.5, 4.0` with
the bracket closed on a line of its own, while `"outputs"` has a line for each number.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.server.examples import Classifications, Regressions
from servekit.server.inference import type_text
from servekit.server.json_numbers import FEW, compact_text, float_tokens
from servekit.server.json_value import INDENT, quoted


def row_answer(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`{"predictions": [...]}`: one element a row; an object a row when there are several outputs."""
    rows = -1
    for name, array in outputs.items():
        if array.ndim == 0:
            raise _refused(f"Tensor name: {name} has no shape information ")
        if rows not in (-1, len(array)):
            raise _refused(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows = len(array)
    if rows == 0:
        return _encoded('{\n    "predictions": []\n}')
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        if _is_large(array):
            text = compact_text(array).replace(b",", b", ")
            return b"".join((b'{\n    "predictions": ', memoryview(text)[:-1], b"\n    ]\n}"))
        return _encoded('{\n    "predictions": [' + ", ".join(_rows(name, array, 2)) + "\n    ]\n}")
    columns = [[f"{INDENT * 3}{quoted(name)}: {row}" for row in _rows(name, a, 3)] for name, a in outputs.items()]
    objects = (f"\n{INDENT * 2}{{\n" + ",\n".join(row) + f"\n{INDENT * 2}}}" for row in zip(*columns, strict=True))
    return _encoded('{\n    "predictions": [' + ",".join(objects) + "\n    ]\n}")


def column_answer(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`{"outputs": ...}`: the tensor itself, or an object of tensors when there are several outputs."""
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return _encoded('{\n    "outputs": ' + _spread(name, array, 1) + "\n}")
    members = (f"{INDENT * 2}{quoted(name)}: {_spread(name, array, 2)}" for name, array in outputs.items())
    return _encoded('{\n    "outputs": {\n' + ",\n".join(members) + "\n    }\n}")


def classify_answer(results: Classifications) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`"""
    scores = iter(float_tokens(np.array([entry.score for row in results for entry in row], np.float32)))
    rows = (
        "[" + ", ".join(f"[{quoted(_text(entry.label))}, {next(scores)}]" for entry in row) + "]" for row in results
    )
    return _encoded('{\n    "results": [' + ", ".join(rows) + "\n    ]\n}")


def regress_answer(results: Regressions) -> bytes:
    """`{"results": [value, ...]}`"""
    return _encoded('{\n    "results": [' + ", ".join(float_tokens(np.array(results, np.float32))) + "]\n}")


def error_answer(message: str) -> bytes:
    return _encoded('{\n    "error": ' + quoted(message) + "\n}")


def status_answer(response: Any) -> bytes:
    """A GetModelStatusResponse message, with protobuf's own JSON printer."""
    return (_protobuf_json(response) + "\n").encode()


def metadata_answer(model_spec: Any, signatures: Any) -> bytes:
    """A ModelSpec and a SignatureDefMap message: two texts glued together, as upstream does."""
    return (
        '{\n"model_spec":'
        + _protobuf_json(model_spec)
        + '\n,\n"metadata": {"signature_def": '
        + _protobuf_json(signatures)
        + "\n}\n}\n"
    ).encode()


_ESCAPED_BY_PROTOBUF = re.compile(
    "[<>\\x7f-\\x9f\\xad\\u0600-\\u0603\\u06dd\\u070f\\u17b4\\u17b5\\u200b-\\u200f\\u2028-\\u202e"
    "\\u2060-\\u2064\\u206a-\\u206f\\ufeff\\ufff9-\\ufffb]"
)
"""What its C++ JSON printer escapes beyond what JSON demands (`util/internal/json_escaping.cc`)."""


def _protobuf_json(message: Any) -> str:
    text: str = json_format.MessageToJson(
        message,
        indent=1,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )
    return _ESCAPED_BY_PROTOBUF.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _rows(name: str, array: NDArray[Any], level: int) -> Sequence[str]:
    """One text for each row, with one-line lists."""
    if _is_large(array):
        text, depth = compact_text(array).decode("ascii").replace(",", ", "), array.ndim - 1
        opened, closed = "[" * depth, "]" * depth
        rows = text[depth + 1 : len(text) - depth - 1].split(f"{closed}, {opened}")
        return [f"{opened}{row}{closed}" for row in rows] if depth else rows
    texts: Sequence[str] = _tokens(name, array, level + array.ndim - 1)
    for depth in range(array.ndim - 1, 0, -1):
        texts = [f"[{', '.join(group)}]" for group in _groups(texts, array.shape, depth)]
    return texts


def _spread(name: str, array: NDArray[Any], level: int) -> str:
    """Lists with each element on a line of its own; `level` is that of the outermost one."""
    if _is_large(array):
        return _spread_text(compact_text(array).decode("ascii"), array.ndim, level)
    texts: Sequence[str] = _tokens(name, array, level + array.ndim)
    for depth in range(array.ndim - 1, -1, -1):
        inner, outer = INDENT * (level + depth + 1), INDENT * (level + depth)
        separator = f",\n{inner}"
        texts = [
            f"[\n{inner}{separator.join(group)}\n{outer}]" if group else "[]"
            for group in _groups(texts, array.shape, depth)
        ]
    return texts[0]


def _spread_text(text: str, rank: int, level: int) -> str:
    """The same from lists without white space, by what stands between two elements: the more lists end, the longer."""
    innermost = level + rank
    opened = ["".join(f"[\n{INDENT * (innermost - n + i)}" for i in range(1, n + 1)) for n in range(rank + 1)]
    closed = ["".join(f"\n{INDENT * (innermost - i)}]" for i in range(1, n + 1)) for n in range(rank + 1)]
    between = text[rank:-rank]
    for lists in range(rank - 1, 0, -1):
        between = between.replace("]" * lists + "," + "[" * lists, chr(_MARKER + lists))
    between = between.replace(",", f",\n{INDENT * innermost}")
    for lists in range(1, rank):
        separator = f"{closed[lists]},\n{INDENT * (innermost - lists)}{opened[lists]}"
        between = between.replace(chr(_MARKER + lists), separator)
    return opened[rank] + between + closed[rank]


_MARKER = 0x80
"""Characters from here on are in no number."""


def _is_large(array: NDArray[Any]) -> bool:
    return array.dtype == np.float32 and array.size > FEW and array.ndim > 0


def _groups(texts: Sequence[str], shape: tuple[int, ...], depth: int) -> list[Sequence[str]]:
    """The texts of dimension `depth`, gathered for each element of the dimensions before it."""
    size = shape[depth]
    return [texts[start * size : (start + 1) * size] for start in range(math.prod(shape[:depth]))]


def _tokens(name: str, array: NDArray[Any], level: int) -> list[str]:
    """The text of each element; `level` is the depth of an element, for objects that span lines."""
    flat = array.ravel()
    if not flat.size:
        return []
    kind = _kind(array.dtype)
    if kind == "float":
        return float_tokens(flat)
    if kind == "int":
        return list(map(str, flat.tolist()))
    if kind == "bool":
        return ["true" if item else "false" for item in flat.tolist()]
    if kind != "string":
        raise _refused(f"Failed to write JSON value for tensor type: {type_text(array.dtype)}")
    if name.endswith("_bytes"):
        inner, outer = INDENT * (level + 1), INDENT * level
        return [f'{{\n{inner}"b64": "{base64.b64encode(item).decode()}"\n{outer}}}' for item in flat.tolist()]
    return [quoted(_text(item)) for item in flat.tolist()]


@functools.cache
def _kind(dtype: np.dtype[Any]) -> str:
    """How elements are written; empty for types that JSON cannot carry (half, bfloat16, uint16, complex)."""
    if dtype.name in ("float32", "float64"):
        return "float"
    if dtype.kind in "iu" and dtype.name != "uint16":
        return "int"
    return {"b": "bool", "O": "string"}.get(dtype.kind, "")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)
