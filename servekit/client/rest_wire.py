"""TF Serving's REST API as bytes: paths, column format, `{"b64": …}`, answers.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from servekit.client.answers import (
    Class,
    Metadata,
    ModelStatus,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
)
from servekit.client.wire import Call, Examples, Feature, SignatureMovedError
from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec
from servekit.tensors import STRING

_CODE_OF_STATUS = {
    400: Code.INVALID_ARGUMENT,  # also FAILED_PRECONDITION and OUT_OF_RANGE, which HTTP cannot tell apart
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class RestWire:
    """Implements `servekit.client.wire.Wire`."""

    def predict(
        self, spec: ModelSpec, inputs: Mapping[str, NDArray[Any]], output_filter: Sequence[str]
    ) -> Call[Callable[[Signature | None], Prediction]]:
        def read(body: bytes) -> Callable[[Signature | None], Prediction]:
            outputs = _member(body, "outputs")
            return lambda signature: _prediction(outputs, signature, spec, output_filter)

        # As bytes throughout: a batch of images is tens of megabytes, and every str in between would be a copy more.
        columns = b",".join(json.dumps(name).encode() + b":" + _json_of_array(array) for name, array in inputs.items())
        body = b'{"signature_name":%b,"inputs":{%b}}' % (json.dumps(spec.signature_name).encode(), columns)
        return Call(f"POST {spec.rest_path()}:predict", body, read)

    def classify(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[list[Class]]]:
        def read(body: bytes) -> list[list[Class]]:
            return [[Class(label, float(score)) for label, score in example] for example in _member(body, "results")]

        return Call(f"POST {spec.rest_path()}:classify", _json_of_examples(spec, examples, context), read)

    def regress(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[float]]:
        def read(body: bytes) -> list[float]:
            return [float(value) for value in _member(body, "results")]

        return Call(f"POST {spec.rest_path()}:regress", _json_of_examples(spec, examples, context), read)

    def status(self, spec: ModelSpec) -> Call[ModelStatus]:
        def read(body: bytes) -> ModelStatus:
            return ModelStatus(
                tuple(
                    VersionStatus(
                        int(entry["version"]),
                        entry["state"],
                        _code_named(entry["status"]["error_code"]),
                        entry["status"]["error_message"],
                    )
                    for entry in _member(body, "model_version_status")
                )
            )

        return Call(f"GET {spec.rest_path()}", b"", read)

    def metadata(self, spec: ModelSpec) -> Call[Metadata]:
        def read(body: bytes) -> Metadata:
            model_spec = _member(body, "model_spec")
            signatures = _member(body, "metadata")["signature_def"]["signature_def"]
            return Metadata(
                model_spec["name"],
                int(model_spec["version"]),
                {name: _signature(definition) for name, definition in signatures.items()},
            )

        return Call(f"GET {spec.rest_path()}/metadata", b"", read)

    def reload_config(self, config: Any) -> Call[None]:  # noqa: ARG002
        raise StatusError(
            Code.UNIMPLEMENTED,
            "reload_config: TF Serving's REST API has no such call",
            hint="use the gRPC address: grpc://HOST:8500",
        )


def error_of(status: int, body: bytes) -> StatusError:
    """The canonical code behind an HTTP status, with the server's own text where the body is `{"error": …}`."""
    code = _CODE_OF_STATUS.get(status, Code.INTERNAL)
    try:
        message = _member(body, "error")
    except ValueError:
        message = f"HTTP {status} {body[:200].decode(errors='replace')}".strip()
    return StatusError(code, str(message))


def _member(body: bytes, name: str) -> Any:
    """Raises ValueError when the body is not a JSON object with that member."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # TF Serving prints NaN and Infinity bare and string tensors byte for byte: both are beyond strict JSON.
        document = json.loads(body.decode("utf-8", "surrogateescape"))
    if not isinstance(document, dict) or name not in document:
        raise ValueError(f"the answer has no {name!r}")
    return document[name]


def _json_of_array(array: NDArray[Any]) -> bytes:
    if array.dtype == object:
        return orjson.dumps(_with_b64(array.tolist()))
    if array.dtype.kind in "biu" or (array.dtype.kind == "f" and np.isfinite(array).all()):
        try:
            return orjson.dumps(np.asarray(array, order="C"), option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError:  # scalars and element types that orjson does not know
            pass
    elif array.dtype.kind == "c":
        raise ValueError("JSON has no complex numbers; send this over gRPC")
    return json.dumps(array.astype(np.float64).tolist() if array.dtype.kind in "fV" else array.tolist()).encode()


def _with_b64(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_b64(item) for item in value]
    return {"b64": base64.b64encode(value).decode()}


def _json_of_examples(spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> bytes:
    document: dict[str, Any] = {
        "signature_name": spec.signature_name or DEFAULT_SIGNATURE,
        "examples": [{name: _json_of_feature(value) for name, value in example.items()} for example in examples],
    }
    if context:
        document["context"] = {name: _json_of_feature(value) for name, value in context.items()}
    return orjson.dumps(document)


def _json_of_feature(value: Feature) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, (str, bool, int, float)):
        return value
    return [_json_of_feature(item) for item in value]


def _prediction(outputs: Any, signature: Signature | None, spec: ModelSpec, output_filter: Sequence[str]) -> Prediction:
    specs = signature.outputs if signature else {}
    if signature and len(specs) == 1:  # a single output comes without its name
        outputs = {next(iter(specs)): outputs}
    if not isinstance(outputs, dict) or "b64" in outputs or (signature and set(outputs) != set(specs)):
        if signature:
            raise SignatureMovedError
        outputs = {"outputs": outputs}
    missing = [name for name in output_filter if name not in outputs]
    if missing:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"{spec.name}: output tensor alias not found in signature: {missing[0]} "
            f"Outputs expected to be in the set {{{','.join(sorted(outputs))}}}.",
        )
    names = output_filter or outputs
    return Prediction({name: _array_of_json(outputs[name], specs.get(name)) for name in names}, None)


def _array_of_json(value: Any, spec: TensorSpec | None) -> NDArray[Any]:
    """Raises SignatureMovedError when the values are not of the kind that the signature says."""
    type = spec.data_type if spec else None
    texts = _without_b64(value)
    if texts is not None:
        if type is not None and type is not STRING:
            raise SignatureMovedError
        return texts
    array = np.array(value)
    if array.size == 0 and spec and spec.shape and type:
        # `[]` does not say how many columns no rows have.
        shape = [size if size > 0 else 0 for size in spec.shape]
        return np.zeros(shape if 0 in shape else array.shape, type.numpy)
    if type is None:
        return array
    if type is STRING or not _is_of_kind(array, type.numpy):
        raise SignatureMovedError
    return array.astype(type.numpy)


def _is_of_kind(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "iu":
        return array.dtype.kind in "iu"
    return array.dtype.kind == "b" if dtype.kind == "b" else array.dtype.kind in "fiu"


def _without_b64(value: Any) -> NDArray[Any] | None:
    """An object array of bytes if `value` is text or `{"b64": …}` at any depth, else None."""
    shape = []
    flat = [value]
    while flat and all(isinstance(item, list) for item in flat):
        shape.append(len(flat[0]))
        flat = [item for sublist in flat for item in sublist]
    if not flat or not isinstance(flat[0], (str, dict)):
        return None
    if any(isinstance(item, dict) and "b64" not in item for item in flat):
        raise SignatureMovedError  # several outputs by name, where there was one
    texts = np.empty(len(flat), dtype=object)
    for index, item in enumerate(flat):
        texts[index] = (
            base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode("utf-8", "surrogateescape")
        )
    return texts.reshape(shape)


def _signature(definition: Any) -> Signature:
    return Signature(
        definition["method_name"],
        {name: _tensor_spec(name, info) for name, info in definition["inputs"].items()},
        {name: _tensor_spec(name, info) for name, info in definition["outputs"].items()},
    )


def _tensor_spec(name: str, info: Any) -> TensorSpec:
    shape = info["tensor_shape"]
    return TensorSpec(
        name, info["dtype"], None if shape["unknown_rank"] else tuple(int(dim["size"]) for dim in shape["dim"])
    )


def _code_named(name: str) -> Code:
    return Code.__members__.get(name, Code.UNKNOWN)
