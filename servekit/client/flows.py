"""What a client does, written once for sync and async: generators that yield calls and are sent their answers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servekit.client.answers import Metadata, Prediction, Signature, TensorSpec
from servekit.client.wire import Call, SignatureMovedError, Wire
from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec
from servekit.tensors import STRING, as_array

T = TypeVar("T")
Flow = Generator[Call[Any], Any, T]

Inputs = Mapping[str, ArrayLike] | ArrayLike
MetadataCache = dict[tuple[str, int | None, str | None], Metadata]


def predict(
    wire: Wire, cache: MetadataCache, spec: ModelSpec, inputs: Inputs, output_filter: Sequence[str]
) -> Flow[Prediction]:
    """Reads the signature once per model, sends, reads the answer; a signature that moved meanwhile is read again."""
    key = _key(spec)
    known = cache.get(key) or (yield from metadata(wire, cache, spec))
    signature = known.signature(spec.signature_name)
    try:
        read = yield wire.predict(spec, prepared(inputs, signature, spec), output_filter)
    except StatusError:
        cache.pop(key, None)
        raise
    try:
        prediction: Prediction = read(signature)
    except SignatureMovedError:
        known = yield from metadata(wire, cache, spec)
        try:
            prediction = read(known.signature(spec.signature_name))
        except SignatureMovedError:
            raise StatusError(Code.INTERNAL, f"{spec.name}: the answer does not fit the model's signature") from None
    return prediction


def metadata(wire: Wire, cache: MetadataCache, spec: ModelSpec) -> Flow[Metadata]:
    """Always asks, and remembers the answer for `predict`."""
    answer: Metadata = yield wire.metadata(ModelSpec(*_key(spec)))
    cache[_key(spec)] = answer
    return answer


def one(call: Call[T]) -> Flow[T]:
    answer: T = yield call
    return answer


def prepared(inputs: Inputs, signature: Signature | None, spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """Arrays by input name, in the signature's dtypes where that loses no kind (float64 to float32, not 1.5 to int).

    An input or signature that the model does not have passes: refusing it is the server's. Raises StatusError.
    """
    if not isinstance(inputs, Mapping):
        inputs = {_only_input(signature, spec): inputs}
    specs = signature.inputs if signature else {}
    arrays = {}
    for name, value in inputs.items():
        try:
            arrays[name] = _in_dtype_of(specs.get(name), as_array(value))
        except ValueError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"input {name}: {error}") from None
    return arrays


def _only_input(signature: Signature | None, spec: ModelSpec) -> str:
    names = sorted(signature.inputs) if signature else []
    if len(names) != 1:
        text = ", ".join(names) or "unknown"
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"{spec.name}, signature {spec.signature_name or DEFAULT_SIGNATURE}: the inputs are {text}; "
            "give a mapping of input name to value",
        )
    return names[0]


def _in_dtype_of(spec: TensorSpec | None, array: NDArray[Any]) -> NDArray[Any]:
    type = spec.data_type if spec else None
    if type is None or type is STRING or array.dtype == object or array.dtype == type.numpy:
        return array
    if array.size == 0:
        return array.astype(type.numpy)
    if array.dtype.kind in "iu" and type.numpy.kind in "iu":
        return array.astype(type.numpy) if _fits(array, type.numpy) else array
    return array.astype(type.numpy) if np.can_cast(array.dtype, type.numpy, "same_kind") else array


def _fits(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(array.min()) >= limits.min and int(array.max()) <= limits.max


def _key(spec: ModelSpec) -> tuple[str, int | None, str | None]:
    return spec.name, spec.version, spec.version_label
