"""Calls to a signature that work when pasted into a shell: curl for REST, grpcurl for gRPC."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from servekit.export.saved_model import SignatureFacts, Tensor
from servekit.model_spec import DEFAULT_SIGNATURE

_INLINE = 16
"""Tensors of more elements are made by a Python one-liner instead of being written out."""
IMAGE_FEATURE = "image/encoded"
_BASE64 = "base64 < {file} | tr -d '\\n'"  # GNU's and macOS's base64 have no common option for one line


@dataclass(frozen=True, slots=True)
class Target:
    """Where the calls go. `image` is the file for string inputs, relative to the bundle."""

    model: str
    version: int
    image: str
    rest: str = "http://127.0.0.1:8501"
    grpc: str = "127.0.0.1:8500"


def curl(name: str, signature: SignatureFacts, target: Target, features: Sequence[str] = ()) -> str | None:
    """None for a signature that REST cannot call (no inputs, or a method that is none of the three).

    `features` are the names that a classify or regress signature reads from its tf.Example, where they are known.
    """
    if not signature.inputs or not signature.method:
        return None
    url = f"{target.rest}/v1/models/{target.model}/versions/{target.version}:{signature.method}"
    send = f"curl -s --data @- {shlex.quote(url)}"
    if signature.method == "predict":
        row: Any = {alias: _value(alias, tensor) for alias, tensor in signature.inputs.items()}
        body = {"signature_name": name, "instances": [row]}
    else:
        names = features or ("FEATURE",)  # the SavedModel does not say what it reads from an example
        example = {name: _File(bare=False) if name == IMAGE_FEATURE else 1.0 for name in names}
        body = {"signature_name": name, "examples": [example]}
    return f"{_pipe(body, target.image)} | {send}"


def predict_command(name: str, signature: SignatureFacts, target: Target) -> str | None:
    """`servekit predict`, for the signature that it asks unless told otherwise and that takes one image."""
    if name != DEFAULT_SIGNATURE or [tensor.dtype for tensor in signature.inputs.values()] != ["string"]:
        return None
    return f"servekit predict {target.model} {shlex.quote(target.image)} --version {target.version}"


def grpcurl(name: str, signature: SignatureFacts, target: Target) -> str | None:
    """Needs the descriptor set that servekit ships, because TF Serving has no reflection. Predict only."""
    if not signature.inputs or signature.method != "predict":
        return None
    inputs = {alias: _tensor_proto(alias, tensor) for alias, tensor in signature.inputs.items()}
    spec = {"name": target.model, "version": str(target.version), "signature_name": name}
    body = {"model_spec": spec, "inputs": inputs}
    call = "tensorflow.serving.PredictionService/Predict"
    return (
        f"{_pipe(body, target.image)} | "
        f"grpcurl -plaintext -protoset servekit/protos/descriptors.binpb -d @ {target.grpc} {call}"
    )


@dataclass(frozen=True, slots=True)
class _File:
    """Stands for the base64 of the image file; REST wants it as a b64 object, proto3 JSON as plain text."""

    bare: bool
    url_safe: bool = False
    encoded_again: bool = False


def _value(alias: str, tensor: Tensor) -> Any:
    if tensor.dtype == "string":
        return _File(bare=_url_safe(alias), url_safe=_url_safe(alias))
    return _Zeros(tensor.dtype, _concrete(tensor)[1:])


def _url_safe(alias: str) -> bool:
    """Inputs of that name take URL-safe base64 text, by servekit's convention."""
    return alias.endswith("base64url")


def _tensor_proto(alias: str, tensor: Tensor) -> dict[str, Any]:
    shape = _concrete(tensor)
    proto: dict[str, Any] = {"dtype": _DT.get(tensor.dtype, f"DT_{tensor.dtype.upper()}")}
    proto["tensor_shape"] = {"dim": [{"size": str(size)} for size in shape]}
    if tensor.dtype == "string":
        proto["string_val"] = [_File(bare=True, url_safe=_url_safe(alias), encoded_again=_url_safe(alias))]
    else:
        # Fewer values than elements: TensorFlow repeats the last one.
        proto[_FIELD.get(tensor.dtype, "int_val")] = [_zero(tensor.dtype)]
    return proto


_DT = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "float16": "DT_HALF", "bool": "DT_BOOL", "string": "DT_STRING"}
_FIELD = {
    "float32": "float_val",
    "float64": "double_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "bool": "bool_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}


@dataclass(frozen=True, slots=True)
class _Zeros:
    dtype: str
    shape: tuple[int, ...]


def _zero(dtype: str) -> Any:
    return False if dtype == "bool" else 0.0 if "float" in dtype else 0


def _concrete(tensor: Tensor) -> tuple[int, ...]:
    return tuple(1 if size < 0 else size for size in tensor.shape or (1,))


def _pipe(body: Mapping[str, Any], image: str) -> str:
    """Shell code that prints `body` as JSON; the image goes through a pipe, an argument would be too long."""
    holes: list[_File | _Zeros] = []

    def hole(value: object) -> Any:
        if isinstance(value, _Zeros) and prod(value.shape) <= _INLINE:
            return _nested(value.shape, _zero(value.dtype))
        assert isinstance(value, (_File, _Zeros))
        holes.append(value)
        return f"@hole{len(holes) - 1}@"

    text = json.dumps(body, default=hole)
    if not holes:
        return f"echo {shlex.quote(text)}"
    commands = []
    for index, value in enumerate(holes):
        before, text = text.split(f'"@hole{index}@"', 1)
        opening, closing, command = _fill(value, image)
        commands += [f"printf %s {shlex.quote(before + opening)}", command]
        text = closing + text
    commands.append(f"printf %s {shlex.quote(text)}")
    return f"( {'; '.join(commands)} )"


def _fill(value: _File | _Zeros, image: str) -> tuple[str, str, str]:
    """What stands before and after, and the command that prints what is between."""
    if isinstance(value, _Zeros):
        nested = json.dumps(_zero(value.dtype))
        for size in reversed(value.shape):
            nested = f"[{nested}]*{size}"
        return "", "", f"python3 -c {shlex.quote(f'print({nested})')}"
    command = _BASE64.format(file=shlex.quote(image))
    if value.url_safe:
        command += " | tr '+/' '-_'"
    if value.encoded_again:  # proto3 JSON writes bytes fields in base64, whatever the bytes are
        command += " | base64 | tr -d '\\n'"
    return ('"', '"', command) if value.bare else ('{"b64": "', '"}', command)


def _nested(shape: tuple[int, ...], value: Any) -> Any:
    return value if not shape else [_nested(shape[1:], value)] * shape[0]
