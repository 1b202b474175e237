"""JSON values to tf.Examples: the `examples` and `context` of classify and regress requests, by TF Serving's rules."""

from __future__ import annotations

from typing import Any

import numpy as np

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.json_base64 import decode
from servekit.server.json_value import Object, c_string, shown, type_name

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def examples_of(document: Object) -> list[bytes]:
    """Serialized tf.Examples, each with the context's features under its own. Raises StatusError."""
    has_context, context = document.find("context")
    prefix = _example(context) if has_context else b""
    found, examples = document.find("examples")
    if not found:
        raise _refused(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise _refused(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise _refused(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    return [prefix + _example(example) for example in examples]


def _example(value: Any) -> bytes:
    if not isinstance(value, Object):
        raise _refused(f"Example must be JSON object but got JSON {type_name(value)}")
    example = messages.Example()
    for member, content in value.members:
        name = c_string(member)
        key = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        feature = example.features.feature[key]
        feature.Clear()
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
    serialized: bytes = example.SerializeToString()
    return serialized


def _add(feature: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        _values(feature, name, "int64_list").append(int(value))
    elif isinstance(value, str):
        _values(feature, name, "bytes_list").append(value.encode("utf-8", "surrogateescape"))
    elif isinstance(value, float):
        with np.errstate(over="ignore"):
            _values(feature, name, "float_list").append(float(np.float32(value)))
    elif isinstance(value, int):
        values = _values(feature, name, "int64_list")
        if value >= 2**63:
            raise _refused(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        values.append(value)
    elif isinstance(value, Object) and (text := value.base64_text()) is not None:
        _values(feature, name, "bytes_list").append(decode(text))
    else:
        raise _refused(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _values(feature: Any, name: str, kind: str) -> Any:
    """The list to append to; the first value of a feature decides its kind."""
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise _refused(f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}")
    return getattr(feature, kind).value


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)
