"""TensorProto to numpy and back without TensorFlow, by TensorFlow's rules (`Tensor::FromProto`, `AsProtoField`).

Strings are object arrays of bytes. half and bfloat16 travel as bit patterns in `half_val`; bfloat16 and float8 arrays
have the dtypes of the package `ml_dtypes`, which comes with TensorFlow and is imported only when one is met.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MAX_DIMENSIONS = 64  # numpy's; TensorFlow allows 254, no kernel takes more than a few


@dataclass(frozen=True, slots=True)
class DataType:
    """One of TensorFlow's element types: `name` as in `DT_<name>`, the numpy dtype, the typed field it travels in."""

    number: int
    name: str
    numpy_name: str
    field: str

    @property
    def numpy(self) -> np.dtype[Any]:
        return _numpy_dtype(self.numpy_name)

    @property
    def little_endian(self) -> np.dtype[Any]:
        """As it travels."""
        return _little_endian(_numpy_dtype(self.numpy_name))


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name)


STRING = DataType(7, "STRING", "object", "string_val")

DATA_TYPES = {
    type.number: type
    for type in (
        DataType(1, "FLOAT", "float32", "float_val"),
        DataType(2, "DOUBLE", "float64", "double_val"),
        DataType(3, "INT32", "int32", "int_val"),
        DataType(4, "UINT8", "uint8", "int_val"),
        DataType(5, "INT16", "int16", "int_val"),
        DataType(6, "INT8", "int8", "int_val"),
        STRING,
        DataType(8, "COMPLEX64", "complex64", "scomplex_val"),
        DataType(9, "INT64", "int64", "int64_val"),
        DataType(10, "BOOL", "bool", "bool_val"),
        DataType(11, "QINT8", "int8", "int_val"),
        DataType(12, "QUINT8", "uint8", "int_val"),
        DataType(13, "QINT32", "int32", "int_val"),
        DataType(14, "BFLOAT16", "bfloat16", "half_val"),
        DataType(15, "QINT16", "int16", "int_val"),
        DataType(16, "QUINT16", "uint16", "int_val"),
        DataType(17, "UINT16", "uint16", "int_val"),
        DataType(18, "COMPLEX128", "complex128", "dcomplex_val"),
        DataType(19, "HALF", "float16", "half_val"),
        DataType(22, "UINT32", "uint32", "uint32_val"),
        DataType(23, "UINT64", "uint64", "uint64_val"),
        DataType(24, "FLOAT8_E5M2", "float8_e5m2", "float8_val"),
        DataType(25, "FLOAT8_E4M3FN", "float8_e4m3fn", "float8_val"),
    )
}
"""Every element type that can be a request's or an answer's, by its number in `tensorflow.DataType`."""

_BY_NUMPY_NAME = {type.numpy_name: type for type in DATA_TYPES.values() if not type.name.startswith(("Q", "STRING"))}

# Typed fields whose values have a fixed width on the wire: an array's little-endian bytes are the packed field.
_PACKED_TAGS = {"float_val": 5, "double_val": 6, "scomplex_val": 9, "dcomplex_val": 12}


def data_type_of(array: NDArray[Any]) -> DataType:
    """Raises ValueError for a numpy dtype that no tensor has (datetimes, structures)."""
    return _data_type_of(array.dtype)


@functools.cache
def _data_type_of(dtype: np.dtype[Any]) -> DataType:
    if dtype.kind in "OSU":
        return STRING
    type = _BY_NUMPY_NAME.get(dtype.name)
    if type is None:
        raise ValueError(f"arrays of {dtype.name} cannot be sent as a tensor")
    return type


def to_proto(array: ArrayLike, *, data_type: int | None = None, as_content: bool = True) -> Any:
    """A TensorProto. `data_type` names a quantized type, which numpy cannot tell from its integer type.

    `as_content` puts numbers into `tensor_content` (fastest to send and to parse), otherwise into the typed field, as
    TF Serving's answers have them. Strings may be bytes or str (sent as UTF-8). Raises ValueError.
    """
    from servekit.protos import messages  # costs 0.1 s, which REST clients of this module need not pay

    values = as_array(array)
    type = data_type_of(values) if data_type is None else DATA_TYPES[data_type]
    proto = messages.TensorProto(dtype=type.number)
    proto.tensor_shape.SetInParent()  # a scalar has a shape, an empty one
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    if type is STRING:
        proto.string_val.extend(values.ravel().tolist())
        return proto
    content = np.ascontiguousarray(values, dtype=type.little_endian)
    if as_content:
        proto.tensor_content = content.tobytes()
    elif type.field in _PACKED_TAGS:
        proto.MergeFromString(_packed(_PACKED_TAGS[type.field], content.tobytes()))
    elif type.field == "half_val":
        proto.half_val.extend(content.view(np.uint16).ravel().tolist())
    elif type.field == "float8_val":
        proto.float8_val = content.tobytes()
    else:
        getattr(proto, type.field).extend(content.ravel().tolist())
    return proto


def to_content_proto(array: NDArray[Any]) -> Any:
    """As TF Serving answers with --enable_serialization_as_tensor_content: strings too are in `tensor_content`."""
    proto = to_proto(array)
    if proto.string_val:
        from google.protobuf.internal import encoder

        lengths: list[bytes] = [encoder._VarintBytes(len(text)) for text in proto.string_val]  # type: ignore[attr-defined]
        proto.tensor_content = b"".join([*lengths, *proto.string_val])
        del proto.string_val[:]
    return proto


def to_array(proto: Any) -> NDArray[Any]:
    """A writable array. Raises ValueError where TensorFlow refuses the message.

    As in TensorFlow: fewer values than elements repeat the last one, none are zeros (or empty strings), too many are
    cut; `tensor_content` wins over typed values and must have the exact length; an unknown rank is a scalar.
    """
    type = DATA_TYPES.get(proto.dtype)
    if type is None:
        raise ValueError(f"dtype {proto.dtype} is not a tensor's")
    shape = tuple([dimension.size for dimension in proto.tensor_shape.dim])
    if len(shape) > _MAX_DIMENSIONS or (shape and min(shape) < 0):
        raise ValueError(f"shape {list(shape)} is not a tensor's")
    count = math.prod(shape)
    try:
        if count == 0:
            return np.zeros(shape, type.numpy)
        if proto.tensor_content:
            array: NDArray[Any] = _from_content(type, proto.tensor_content, count)
        else:
            array = _filled(_typed_values(type, proto), type.numpy, count)
        return array.reshape(shape)
    except (MemoryError, OverflowError) as error:
        raise ValueError(f"shape {list(shape)} does not fit into memory") from error


def as_array(value: ArrayLike) -> NDArray[Any]:
    """What a caller means by `value`: text and bytes become object arrays of bytes, all else is numpy's reading.

    A bytes object is a scalar, a list of bytes a vector; numpy's own fixed-width strings would cut trailing NUL bytes.
    Python floats stay float64 and integers int64: the caller casts to the signature's dtype.
    """
    if isinstance(value, np.ndarray):
        array = value
    elif _holds_text(value):
        array = np.array(value, dtype=object)
    else:
        array = np.asarray(value)
    if array.dtype.kind not in "OSU":
        return array
    texts = np.empty(array.size, dtype=object)
    texts[:] = [_bytes_of(item) for item in array.ravel().tolist()]
    shaped: NDArray[Any] = texts.reshape(array.shape)
    return shaped


def _holds_text(value: object) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (bytes, str))


def _bytes_of(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise ValueError(f"string tensors hold bytes or text, not {type(value).__name__}")


def _from_content(type: DataType, content: bytes, count: int) -> NDArray[Any]:
    if type is STRING:
        return _strings_from_content(content, count)
    dtype = type.numpy
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"tensor_content has {len(content)} bytes, {count} elements of {type.name} need more or less")
    if dtype.kind == "b" and np.frombuffer(content, np.uint8).max(initial=0) > 1:
        raise ValueError("tensor_content has a byte that is neither true nor false")
    array: NDArray[Any] = np.frombuffer(content, _little_endian(dtype)).astype(dtype)
    return array


def _strings_from_content(content: bytes, count: int) -> NDArray[Any]:
    """All lengths as varints, then all texts (`port::DecodeStringList`)."""
    from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]

    lengths, position = [], 0
    try:
        for _ in range(count):
            length, position = _DecodeVarint(content, position)
            lengths.append(length)
    except IndexError as error:
        raise ValueError("tensor_content ends inside the lengths of its strings") from error
    if position + sum(lengths) != len(content):
        raise ValueError("tensor_content does not have the length that its strings need")
    strings = np.empty(count, dtype=object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings


def _typed_values(type: DataType, proto: Any) -> NDArray[Any]:
    dtype = type.numpy
    values = getattr(proto, type.field)
    if type is STRING:
        strings = np.empty(len(values), dtype=object)
        strings[:] = list(values)
        return strings
    if type.field == "float8_val":
        return np.frombuffer(values, dtype)
    if type.field == "half_val":
        return np.array(values, np.int32).astype(np.uint16).view(dtype)
    if type.field in ("scomplex_val", "dcomplex_val"):
        parts = np.array(values, np.float32 if type.field == "scomplex_val" else np.float64)
        return parts[: len(parts) // 2 * 2].view(dtype)
    if type.field == "int_val":
        return np.array(values, np.int32).astype(dtype)  # narrow types wrap
    return np.array(values, dtype)


def _filled(values: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(values) >= count:
        return values[:count]
    if not len(values):
        return np.full(count, b"", dtype) if dtype.kind == "O" else np.zeros(count, dtype)
    filled = np.full(count, values[-1], dtype)
    filled[: len(values)] = values
    return filled


def _packed(field: int, content: bytes) -> bytes:
    from google.protobuf.internal import encoder

    tag: bytes = encoder.TagBytes(field, 2)
    length: bytes = encoder._VarintBytes(len(content))  # type: ignore[attr-defined]
    return tag + length + content


@functools.cache
def _little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.kind == "V" else dtype.newbyteorder("<")
