"""JSON values to arrays: the `instances` and `inputs` of a predict request, by TF Serving's rules and texts.

The dtype comes from the signature, the shape from the JSON (lists must not be ragged). Numbers are checked value by
value only when a quick look at all of them at once finds something to complain about, or text to decode.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.server.inference import MAX_STRING_RANK
from servekit.server.json_base64 import decode
from servekit.server.json_value import Object, c_string, shown, type_name
from servekit.tensors import DATA_TYPES, DataType

Inputs = dict[str, NDArray[Any]]

_INT32 = range(-(2**31), 2**31)
_RANGES = {
    "INT8": _INT32,  # read as int32, then wrapped
    "INT16": _INT32,
    "UINT8": _INT32,
    "INT32": _INT32,
    "INT64": range(-(2**63), 2**63),
    "UINT32": range(2**32),
    "UINT64": range(2**64),
}

_FEW = 32
MAX_RANK = 64
"""numpy's; TensorFlow's is 254."""

_TINY = {
    np.dtype(np.float32): float(np.finfo(np.float32).tiny) * (1 - 2**-25),
    np.dtype(np.float64): sys.float_info.min,
}
"""What is smaller the processor flushes to zero: it asks how small a result is when it has rounded it to 24 bits."""

_LIMITS = {np.dtype(kind): (float(np.finfo(kind).tiny), float(np.finfo(kind).max)) for kind in (np.float32, np.float64)}


def inputs_of(document: Object, signature_inputs: Mapping[str, Any]) -> tuple[Inputs, bool]:
    """The arrays for a signature's inputs (TensorInfo messages), and whether the request was in row format."""
    types = {name: _data_type(info) for name, info in sorted(signature_inputs.items())}
    try:
        return _inputs_of(document, types)
    except _RankError as error:
        raise _refused(f"tensor parsing error: {error}") from None


class _RankError(Exception):
    """A tensor, by name, with more dimensions than arrays have. Said last, as the session's edge does upstream."""


def _inputs_of(document: Object, types: Mapping[str, DataType]) -> tuple[Inputs, bool]:
    has_instances, instances = document.find("instances")
    has_inputs, inputs = document.find("inputs")
    if has_instances and has_inputs:
        raise _refused(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if has_instances:
        if not isinstance(instances, list):
            raise _refused(f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise _refused(f"JSON Value: {shown(document)} No values in 'instances' array")
        return _from_instances(instances, types), True
    if has_inputs:
        return _from_inputs(inputs, types), False
    raise _refused("Missing 'inputs' or 'instances' key")


def _from_inputs(value: Any, types: Mapping[str, DataType]) -> Inputs:
    if not isinstance(value, Object) or value.base64_text() is not None:
        if len(types) > 1:
            raise _refused(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {name: _array(value, type, name) for name, type in types.items()}
    arrays = {}
    for name, type in types.items():
        found, member = value.find(name)
        if not found:
            raise _refused(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _array(member, type, name)
    return arrays


def _from_instances(instances: list[Any], types: Mapping[str, DataType]) -> Inputs:
    if not isinstance(instances[0], Object) and len(types) > 1:
        raise _refused(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_named(instances[0]):
        name, type = next(iter(types.items()))
        quick = _quick_array(instances, type, name)
        if quick is not None:
            return {name: quick}
    columns = {name: _Column(name, type) for name, type in types.items()}
    named = _is_named(instances[0])
    for index, instance in enumerate(instances):
        if named:
            _add_object(columns, instance, index)
        else:
            _add_value(columns, instance, index)
    return {name: column.array(len(instances)) for name, column in columns.items() if column.rows}


def _add_object(columns: dict[str, _Column], instance: Any, index: int) -> None:
    if not _is_named(instance):
        raise _refused(f"Expecting object but got list at item {index} of input list")
    members = [(c_string(name), value) for name, value in instance.members]
    for name, value in members:
        try:
            if name not in columns:
                raise _refused(f"JSON object: does not have named input: {name}")
            columns[name].add(value)
        except StatusError as error:
            text = f"Failed to process element: {index} key: {name} of 'instances' list. Error: {error}"
            raise _refused(text) from None
    if {name for name, _ in members} != set(columns):
        raise _refused(
            f"Failed to process element: {index} of 'instances' list. JSON object: {shown(instance)} "
            f"keys must be equal to: {','.join(sorted(columns))}"
        )


def _add_value(columns: dict[str, _Column], instance: Any, index: int) -> None:
    if _is_named(instance):
        raise _refused(f"Expecting value/list but got object at item {index} of input list")
    try:
        next(iter(columns.values())).add(instance)
    except StatusError as error:
        raise _refused(f"Failed to process element: {index} of 'instances' list. Error: {error}") from None


@dataclass(slots=True)
class _Column:
    """One input, gathered row by row; every row must look like the first."""

    name: str
    type: DataType
    rows: list[NDArray[Any]] = field(default_factory=list)

    def add(self, value: Any) -> None:
        row = _array(value, self.type, self.name)
        if self.rows:
            first = self.rows[0]
            if row.size != first.size:
                raise _refused(f"Expecting tensor size: {first.size} but got: {row.size}")
            if row.shape != first.shape:
                raise _refused(f"Expecting shape {_shape(first)} but got: {_shape(row)}")
        self.rows.append(row)

    def array(self, count: int) -> NDArray[Any]:
        """The first `count` rows: a name twice in one object has added two, and upstream cuts what is too much."""
        if self.rows[0].ndim == _max_rank(self.type):
            raise _RankError(self.name)
        return np.stack(self.rows[:count])


def _array(value: Any, type: DataType, name: str) -> NDArray[Any]:
    quick = _quick_array(value, type, name)
    if quick is not None:
        return quick
    shape = _dense_shape(value)
    leaves: list[Any] = []
    _fill(value, shape, type, leaves)
    return _packed(leaves, shape, type, name)


def _quick_array(value: Any, type: DataType, name: str) -> NDArray[Any] | None:
    """The array when all is well at first sight; None when there is something to say, or objects to decode."""
    shape = _dense_shape(value)
    leaves = [value]
    for size in shape:
        if set(map(_kind, leaves)) != {list} or set(map(len, leaves)) != {size}:
            return None
        leaves = list(itertools.chain.from_iterable(leaves))
    kinds = set(map(_kind, leaves))
    if type.name in ("FLOAT", "DOUBLE"):
        fits = kinds <= {int, float}
    elif type.name in _RANGES:
        limits = _RANGES[type.name]
        fits = kinds <= {int} and (not leaves or (min(leaves) in limits and max(leaves) in limits))
    else:
        fits = kinds <= {{"BOOL": bool, "STRING": str}.get(type.name)}
    return _packed(leaves, shape, type, name) if fits else None


_kind = type


def _dense_shape(value: Any) -> list[int]:
    """Lengths along the first elements; the rest must agree."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _fill(value: Any, shape: list[int], type: DataType, leaves: list[Any]) -> None:
    """The values in the order of the text; without recursion, for lists may be nested deeply."""
    pending = [(value, 0)]
    while pending:
        item, level = pending.pop()
        if not isinstance(item, list):
            if level != len(shape):
                raise _refused(
                    f"JSON Value: {shown(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            leaves.append(_leaf(item, type))
            continue
        if level >= len(shape):
            raise _refused(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(item) != shape[level]:
            raise _refused(
                f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {shape[level]}"
            )
        pending += [(element, level + 1) for element in reversed(item)]


def _leaf(value: Any, type: DataType) -> Any:
    name = type.name
    if isinstance(value, Object):
        if name != "STRING":
            raise _wrong_type(value, type)
        text = value.base64_text()
        if text is None:
            raise _refused(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
        return decode(text)
    if name in ("FLOAT", "DOUBLE"):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif name in _RANGES:
        fits = isinstance(value, int) and not isinstance(value, bool) and value in _RANGES[name]
    elif name in ("BOOL", "STRING"):
        fits = isinstance(value, bool if name == "BOOL" else str)
    else:
        raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {_type_text(type)}")
    if not fits:
        raise _wrong_type(value, type)
    return value


def _packed(leaves: list[Any], shape: list[int], type: DataType, name: str) -> NDArray[Any]:
    if len(shape) > _max_rank(type):
        raise _RankError(name)
    if type.name == "STRING":
        values = np.empty(len(leaves), dtype=object)
        values[:] = [leaf if isinstance(leaf, bytes) else leaf.encode("utf-8", "surrogateescape") for leaf in leaves]
    elif type.name in ("FLOAT", "DOUBLE"):
        values = _floats(leaves, type.numpy)
    elif type.name in _RANGES:
        values = np.array(leaves, np.uint64 if type.name == "UINT64" else np.int64).astype(type.numpy)
    else:
        values = np.array(leaves, type.numpy)
    return values.reshape(shape)


def _max_rank(type: DataType) -> int:
    return MAX_STRING_RANK if type.name == "STRING" else MAX_RANK


def _floats(leaves: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As the server's threads read them: what is too large is infinite, what is too small for a normal number zero."""
    limits = _LIMITS[dtype]
    if len(leaves) <= _FEW and all(value == 0 or limits[0] <= abs(value) <= limits[1] for value in leaves):
        return np.array(leaves, dtype)
    doubles = np.array(leaves, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        cast = doubles.astype(dtype)
    tiny = np.abs(doubles) < _TINY[dtype]
    if tiny.any():
        cast[tiny] *= 0
    return cast


def _is_named(value: Any) -> bool:
    return isinstance(value, Object) and value.base64_text() is None


def _data_type(info: Any) -> DataType:
    return DATA_TYPES.get(info.dtype) or DataType(info.dtype, "INVALID", "object", "")


def _shape(array: NDArray[Any]) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _type_text(type: DataType) -> str:
    """As TensorFlow's DataTypeString."""
    return type.name.lower()


def _wrong_type(value: Any, type: DataType) -> StatusError:
    return _refused(f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {_type_text(type)}")


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)
