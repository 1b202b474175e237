"""A PredictResponse's bytes straight from arrays: large outputs are copied once, small ones need no message objects.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.tensors import STRING, data_type_of, to_content_proto, to_proto

# Tags of length-delimited fields: number * 8 + 2.
_OUTPUTS = b"\x0a"
_MODEL_SPEC = b"\x12"
_KEY = b"\x0a"
_VALUE = b"\x12"
_STRING_VAL = b"\x42"
_PACKED_FLOATS = {"float32": b"\x2a", "float64": b"\x32"}
_PACKED_NUMBERS = {
    **dict.fromkeys(("int32", "uint8", "int16", "int8", "uint16"), b"\x3a"),
    "int64": b"\x52",
    "bool": b"\x5a",
    "uint32": b"\x82\x01",
    "uint64": b"\x8a\x01",
}
_MOST_VARINTS = 64
"""Up to so many a message object costs more than the varints by themselves."""


def predict_response(outputs: Mapping[str, NDArray[Any]], model_spec: bytes, *, as_content: bool) -> bytes:
    """`model_spec` is a serialized ModelSpec; see tensors.to_proto for `as_content`."""
    parts: list[bytes] = []
    for alias, array in outputs.items():
        tensor = tensor_parts(array, as_content=as_content)
        key, length = _key(alias), sum(map(len, tensor))
        size = varint(length)
        parts += [_OUTPUTS, varint(len(key) + len(size) + length), key, size, *tensor]
    return b"".join([*parts, _MODEL_SPEC, varint(len(model_spec)), model_spec])


def tensor_parts(array: NDArray[Any], *, as_content: bool = False) -> list[bytes]:
    """A serialized TensorProto in pieces: as TF Serving has it, numbers in their typed field, unless `as_content`."""
    type = data_type_of(array)
    if as_content:
        return [to_content_proto(array).SerializeToString()]
    if type is STRING:
        texts = array.ravel().tolist()
        if all(isinstance(text, bytes) for text in texts):
            return [_head(type.number, array.shape), *[_field(_STRING_VAL, text) for text in texts]]
    name = type.numpy_name
    if name in _PACKED_FLOATS:
        tag, content = _PACKED_FLOATS[name], np.ascontiguousarray(array, dtype=type.little_endian).tobytes()
    elif name in _PACKED_NUMBERS and array.size <= _MOST_VARINTS:
        tag, content = _PACKED_NUMBERS[name], b"".join([varint(number) for number in array.ravel().tolist()])
    else:
        return [to_proto(array, as_content=False).SerializeToString()]
    if not content:
        return [_head(type.number, array.shape)]
    return [_head(type.number, array.shape), tag, varint(len(content)), content]


def varint(value: int) -> bytes:
    """A number below 2**64; a negative one as 64 bits."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_ONE_BYTE = [bytes([value]) for value in range(0x80)]


@functools.lru_cache(1024)
def _head(data_type: int, shape: tuple[int, ...]) -> bytes:
    """dtype and tensor_shape; a dimension of size 0 is an empty message."""
    dimensions = (_field(b"\x12", b"\x08" + varint(size) if size else b"") for size in shape)
    return b"\x08" + varint(data_type) + _field(b"\x12", b"".join(dimensions))


@functools.lru_cache(1024)
def _key(alias: str) -> bytes:
    """A map entry's key and the tag of its value."""
    return _field(_KEY, alias.encode()) + _VALUE


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content
