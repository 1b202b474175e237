"""Classify, Regress and MultiInference on a loaded version: tf.Examples in, classes or values out; knows no protocol.

The rules are those of `servables/tensorflow/{classifier,regressor,multi_inference}.cc`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.server.inference import CLASSIFY, REGRESS, shape_text
from servekit.server.servable import Servable
from servekit.tensors import data_type_of


@dataclass(frozen=True, slots=True)
class Class:
    """An empty label, or a score of 0, is what the signature did not give."""

    label: bytes
    score: float


Classifications = list[list[Class]]
"""For each example, its classes."""

Regressions = list[float]


Ran = Callable[[float], object]
"""Hears how many seconds the session ran, as soon as it has: what follows may still refuse its outputs."""


@dataclass(frozen=True, slots=True)
class Task:
    """One answer of a multi-inference request: which signature, by which method (`tensorflow/serving/classify`)."""

    signature_name: str
    method_name: str


def classify(
    servable: Servable,
    signature_name: str,
    examples: Sequence[bytes],
    *,
    check_method_name: bool = False,
    ran: Ran = lambda _seconds: None,
) -> Classifications:
    """`examples` are serialized tf.Examples. Raises StatusError."""
    signature = _signature(servable, signature_name, "No signature was found with the name: ")
    fetches = _classify_outputs(signature, check_method_name)
    outputs = _run(servable, {signature.inputs["inputs"].name}, examples, sorted(fetches.values()), ran)
    return _classifications({key: outputs[name] for key, name in fetches.items()}, len(examples))


def regress(
    servable: Servable,
    signature_name: str,
    examples: Sequence[bytes],
    *,
    check_method_name: bool = False,
    ran: Ran = lambda _seconds: None,
) -> Regressions:
    """`examples` are serialized tf.Examples. Raises StatusError."""
    signature = _signature(servable, signature_name, "No signature was found with the name: ")
    fetch = _regress_output(signature, check_method_name)
    outputs = _run(servable, {signature.inputs["inputs"].name}, examples, [fetch], ran)
    return _regressions(outputs[fetch], len(examples))


def multi_inference(
    servable: Servable,
    tasks: Iterable[Task],
    examples: Sequence[bytes],
    *,
    check_method_name: bool = False,
    ran: Ran = lambda _seconds: None,
) -> list[Classifications | Regressions]:
    """Answers all tasks with one run of the session, in their order. Raises StatusError."""
    wanted: list[tuple[str, dict[str, str]]] = []
    feeds: set[str] = set()
    seen: set[str] = set()
    for task in tasks:
        name = task.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise StatusError(Code.INVALID_ARGUMENT, f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        signature = _signature(servable, name, "Requested signature not found in model graph: ")
        if task.method_name == CLASSIFY:
            wanted.append((CLASSIFY, _classify_outputs(signature, check_method_name)))
        elif task.method_name == REGRESS:
            wanted.append((REGRESS, {"outputs": _regress_output(signature, check_method_name)}))
        else:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        feeds.add(signature.inputs["inputs"].name)
    outputs = _run(servable, feeds, examples, sorted({name for _, fetches in wanted for name in fetches.values()}), ran)
    results: list[Classifications | Regressions] = []
    for method_name, fetches in wanted:
        arrays = {key: outputs[name] for key, name in fetches.items()}
        if method_name == CLASSIFY:
            results.append(_classifications(arrays, len(examples)))
        else:
            results.append(_regressions(arrays["outputs"], len(examples)))
    return results


def _signature(servable: Servable, name: str, refusal: str) -> Any:
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise StatusError(Code.INVALID_ARGUMENT, refusal + name)
    return servable.signature_defs[name]


def _classify_outputs(signature: Any, check_method_name: bool) -> dict[str, str]:
    _check_method(signature, CLASSIFY, "classification", check_method_name)
    if len(signature.inputs) != 1:
        raise _refused("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise _refused(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise _refused(f"No classification inputs found in SignatureDef: {_text(signature)}")
    fetches = {key: signature.outputs[key].name for key in ("classes", "scores") if key in signature.outputs}
    if not fetches:
        raise _refused(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_text(signature)}"
        )
    return fetches


def _regress_output(signature: Any, check_method_name: bool) -> str:
    _check_method(signature, REGRESS, "regression", check_method_name)
    if len(signature.inputs) != 1:
        raise _refused("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise _refused("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise _refused(f"No regression inputs found in SignatureDef: {_text(signature)}")
    if "outputs" not in signature.outputs:
        raise _refused(f"No regression outputs found in SignatureDef: {_text(signature)}")
    name: str = signature.outputs["outputs"].name
    return name


def _check_method(signature: Any, method: str, noun: str, check: bool) -> None:
    if check and signature.method_name != method:
        raise _refused(f"Expected {noun} signature method_name to be {method}. Was: {signature.method_name}")


def _run(
    servable: Servable, feeds: set[str], examples: Sequence[bytes], fetches: list[str], ran: Ran
) -> dict[str, NDArray[Any]]:
    """All `feeds` get the same examples: signatures of a TF2 model have an input tensor each."""
    if not examples:
        raise _refused("Input is empty.")
    serialized = np.empty(len(examples), dtype=object)
    serialized[:] = examples
    began = time.perf_counter()
    outputs = servable.run(dict.fromkeys(feeds, serialized), fetches)
    ran(time.perf_counter() - began)
    return dict(zip(fetches, outputs, strict=True))


def _classifications(outputs: dict[str, NDArray[Any]], count: int) -> Classifications:
    for key, dtype, type_name in (("classes", object, "DT_STRING"), ("scores", np.float32, "DT_FLOAT")):
        if key not in outputs:
            continue
        array = outputs[key]
        if array.ndim != 2:
            raise _refused(f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array)}")
        if array.dtype != dtype:
            raise _refused(f"Expected {key} Tensor of {type_name}. Got: DT_{data_type_of(array).name}")
        if array.shape[0] != count:
            raise _refused(f"Expected {key} output batch size of {count}. Got: {array.shape[0]}")
    labels, scores = outputs.get("classes"), outputs.get("scores")
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise _refused(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    width = (labels if labels is not None else outputs["scores"]).shape[1]
    label_rows = [[b""] * width] * count if labels is None else labels.tolist()
    score_rows = [[0.0] * width] * count if scores is None else scores.tolist()
    return [
        [Class(label, score) for label, score in zip(row_labels, row_scores, strict=True)]
        for row_labels, row_scores in zip(label_rows, score_rows, strict=True)
    ]


def _regressions(values: NDArray[Any], count: int) -> Regressions:
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise _refused(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {shape_text(values)}"
        )
    if values.shape[0] != count:
        raise _refused(f"Input batch size did not match output batch size: {count} vs. {values.shape[0]}")
    if values.dtype != np.float32:
        raise _refused(f"Expected output Tensor of DT_FLOAT.  Got: DT_{data_type_of(values).name}")
    floats: list[float] = values.ravel().tolist()
    return floats


def _refused(text: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, text)


def _text(signature: Any) -> str:
    text: str = text_format.MessageToString(signature)
    return text
