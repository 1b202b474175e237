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


def predict_response(outputs: Mapping[str, NDArray[Any]], model_spec: bytes, *, as_content: bool) -> bytes:
    """`model_spec` is a serialized ModelSpec; see tensors.to_proto for `as_content`."""
    parts: list[bytes] = []
    for alias, array in outputs.items():
        tensor = tensor_parts(array, as_content=as_content)
        key = _field(_KEY, alias.encode())
        size = varint(sum(map(len, tensor)))
        parts += [_OUTPUTS, varint(len(key) + 1 + len(size) + sum(map(len, tensor))), key, _VALUE, size, *tensor]
    return b"".join([*parts, _MODEL_SPEC, varint(len(model_spec)), model_spec])


def tensor_parts(array: NDArray[Any], *, as_content: bool = False) -> list[bytes]:
    """A serialized TensorProto in pieces: as TF Serving has it, numbers in their typed field, unless `as_content`."""
    type = data_type_of(array)
    if as_content:
        return [to_content_proto(array).SerializeToString()]
    if type is STRING:
        texts = array.ravel().tolist()
        if all(isinstance(text, bytes) for text in texts):
            return [_head(type.number, array.shape), *(_field(_STRING_VAL, text) for text in texts)]
    tag = _PACKED_FLOATS.get(type.numpy_name)
    if tag is None:
        return [to_proto(array, as_content=False).SerializeToString()]
    if not array.size:
        return [_head(type.number, array.shape)]
    content = np.ascontiguousarray(array, dtype=type.little_endian).tobytes()
    return [_head(type.number, array.shape), tag, varint(len(content)), content]


def varint(value: int) -> bytes:
    """A number that is not negative."""
    if value < 0x80:
        return _ONE_BYTE[value]
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


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content
