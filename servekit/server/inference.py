"""Predict on a loaded version: arrays in, arrays out, TF Serving's checks and texts; knows no protocol.

The rules are those of `servables/tensorflow/predict_util.cc`: names must match the signature, shapes are nobody's
business but the kernels'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.server.servable import Servable

MAX_STRING_RANK = 32
"""Of the arrays of strings that TensorFlow's Python can read: it would go on beyond the end of numpy's iterator."""

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def predict(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, NDArray[Any]],
    output_filter: Sequence[str] = (),
    *,
    check_method_name: bool = False,
) -> dict[str, NDArray[Any]]:
    """Runs a signature on arrays named by its inputs; all its outputs, or those in `output_filter`.

    `inputs` is asked only for the signature's inputs, in their order. Raises StatusError.
    """
    name = signature_name or DEFAULT_SIGNATURE
    signature = servable.signature_defs.get(name)
    if signature is None:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    if check_method_name and signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise StatusError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. "
            f"Was: {signature.method_name}",
        )
    feeds = _feeds(signature, inputs)
    aliases = _output_aliases(signature, output_filter)
    if not aliases:
        raise StatusError(Code.INVALID_ARGUMENT, "Must specify at least one target to fetch or execute.")
    results = servable.run(feeds, [signature.outputs[alias].name for alias in aliases])
    return dict(zip(aliases, results, strict=True))


def _feeds(signature: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    expected, given, defaults = signature.inputs, set(inputs), signature.defaults
    if len(expected) == 1 and len(given) == 1 and not defaults:  # as below, for the most common signature
        (alias,) = given
        if alias in expected:
            return {expected[alias].name: inputs[alias]}
    if len(given) > len(expected) or (len(given) < len(expected) and not defaults):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(expected)} "
            f"len({_set(given)}) != len({_set(expected)}). "
            f"Sent extra: {_set(given - set(expected))}. "
            f"Missing but required: {_set(set(expected) - given)}.",
        )
    feeds = {}
    for alias in sorted(expected):
        feed = expected[alias].name
        if alias in given:
            feeds[feed] = inputs[alias]
        elif alias in defaults:
            feeds[feed] = _default(defaults[alias])
        else:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {feed}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(given)}, "
                f"or default input alias set: {','.join(sorted(defaults))}",
            )
    if defaults and not given <= set(expected):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(given & set(expected)))}, "
            f"request input: {','.join(sorted(given))}",
        )
    return feeds


def _default(proto: Any) -> NDArray[Any]:
    from servekit.tensors import to_array

    return to_array(proto)


def _output_aliases(signature: Any, output_filter: Sequence[str]) -> list[str]:
    aliases: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_set(signature.outputs)}.",
            )
        if alias in aliases:
            raise StatusError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        aliases.append(alias)
    return aliases or sorted(signature.outputs)


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def shape_text(array: NDArray[Any]) -> str:
    """`[2,3]`, as TensorFlow prints shapes."""
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def type_text(dtype: np.dtype[Any]) -> str:
    """`float`, `int32`, `string`: as TensorFlow's DataTypeString."""
    names: dict[str, str] = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}
    return names.get(dtype.name, str(dtype.name))
