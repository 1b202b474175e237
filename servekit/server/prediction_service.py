"""tensorflow.serving.PredictionService without a protocol: its messages in, its messages out, StatusError on errors.

The gRPC edge and warm-up both speak through it; REST has its own texts and goes to `inference` and `examples` itself.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec
from servekit.protos import messages
from servekit.server import examples, inference
from servekit.server.core import ServerCore
from servekit.server.metrics import Metrics
from servekit.server.options import Options
from servekit.server.response_wire import predict_response
from servekit.server.servable import Servable
from servekit.tensors import to_array

SIGNATURE_DEF = "signature_def"


class PredictionService:
    """Each method takes a request message and returns the version that answered with the response.

    That is a message; of predict(), whose answers may be large, it is the message's bytes.
    """

    def __init__(self, core: ServerCore, options: Options, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._check_method_name = options.enable_signature_method_name_check
        self._as_content = options.enable_serialization_as_tensor_content

    def predict(self, request: Any) -> tuple[int, bytes]:
        with self._core.handle(_spec(request)) as handle:
            outputs = predict(handle.servable, request, self._metrics, check_method_name=self._check_method_name)
            answered_by = _answered_by(handle.id.name, request.model_spec.signature_name, handle.id.version)
            response = predict_response(outputs, answered_by, as_content=self._as_content)
            return handle.id.version, response

    def classify(self, request: Any) -> tuple[int, Any]:
        with self._core.handle(_spec(request)) as handle:
            response = classify(handle.servable, request, self._metrics, check_method_name=self._check_method_name)
            _set_spec(response.model_spec, request.model_spec, handle.id.version)
            return handle.id.version, response

    def regress(self, request: Any) -> tuple[int, Any]:
        with self._core.handle(_spec(request)) as handle:
            response = regress(handle.servable, request, self._metrics, check_method_name=self._check_method_name)
            _set_spec(response.model_spec, request.model_spec, handle.id.version)
            return handle.id.version, response

    def multi_inference(self, request: Any) -> tuple[int, Any]:
        """The version of the first task answers all of them."""
        first = request.tasks[0].model_spec if request.tasks else messages.ModelSpec()
        with self._core.handle(model_spec(first)) as handle:
            response = multi_inference(
                handle.servable, request, self._metrics, check_method_name=self._check_method_name
            )
            for result, task in zip(response.results, request.tasks, strict=True):
                _set_spec(result.model_spec, task.model_spec, handle.id.version)
            return handle.id.version, response

    def get_model_metadata(self, request: Any) -> tuple[int, Any]:
        spec = _spec(request)
        if not request.metadata_field:
            raise StatusError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise StatusError(Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        with self._core.handle(spec) as handle:
            response = messages.GetModelMetadataResponse()
            response.model_spec.name = handle.id.name
            response.model_spec.version.value = handle.id.version
            response.metadata[SIGNATURE_DEF].Pack(signature_def_map(handle.servable))
            return handle.id.version, response


def run_log(servable: Servable, log: Any, metrics: Metrics) -> None:
    """Answers a PredictionLog's request on a version that is not served yet (warm-up). Raises StatusError.

    As upstream, the metrics count it under the name of the model that stands in the request.
    """
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict(servable, log.predict_log.request, metrics)
    elif kind == "classify_log":
        classify(servable, log.classify_log.request, metrics)
    elif kind == "regress_log":
        regress(servable, log.regress_log.request, metrics)
    elif kind == "multi_inference_log":
        multi_inference(servable, log.multi_inference_log.request, metrics)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")


def predict(
    servable: Servable, request: Any, metrics: Metrics, *, check_method_name: bool = False
) -> dict[str, NDArray[Any]]:
    """The outputs for a PredictRequest."""
    began = time.perf_counter()
    outputs = inference.predict(
        servable,
        request.model_spec.signature_name,
        _Tensors(request.inputs),
        request.output_filter,
        check_method_name=check_method_name,
    )
    metrics.record_runtime(request.model_spec.name, "Predict", time.perf_counter() - began)
    return outputs


def classify(servable: Servable, request: Any, metrics: Metrics, *, check_method_name: bool = False) -> Any:
    """ClassificationRequest to ClassificationResponse without its model_spec."""
    results = examples.classify(
        servable,
        request.model_spec.signature_name,
        serialized_examples(request.input),
        check_method_name=check_method_name,
        ran=lambda seconds: metrics.record_runtime(request.model_spec.name, "Classify", seconds),
    )
    response = messages.ClassificationResponse()
    _fill_classifications(response.result, results)
    return response


def regress(servable: Servable, request: Any, metrics: Metrics, *, check_method_name: bool = False) -> Any:
    """RegressionRequest to RegressionResponse without its model_spec."""
    values = examples.regress(
        servable,
        request.model_spec.signature_name,
        serialized_examples(request.input),
        check_method_name=check_method_name,
        ran=lambda seconds: metrics.record_runtime(request.model_spec.name, "Regress", seconds),
    )
    response = messages.RegressionResponse()
    for value in values:
        response.result.regressions.add(value=value)
    return response


def multi_inference(servable: Servable, request: Any, metrics: Metrics, *, check_method_name: bool = False) -> Any:
    """MultiInferenceRequest to MultiInferenceResponse, its results without their model_specs."""
    serialized = serialized_examples(request.input)
    results = examples.multi_inference(
        servable,
        _tasks(request),
        serialized,
        check_method_name=check_method_name,
        ran=lambda _seconds: metrics.record_examples(request.tasks[0].model_spec.name, len(serialized)),
    )
    response = messages.MultiInferenceResponse()
    for task, result in zip(request.tasks, results, strict=True):
        entry = response.results.add()
        if task.method_name == inference.CLASSIFY:
            _fill_classifications(entry.classification_result, result)
        else:
            for value in result:
                entry.regression_result.regressions.add(value=value)
    return response


def _tasks(request: Any) -> Iterator[examples.Task]:
    """Each is checked when it is asked for: the first task's errors come before the second's."""
    for task in request.tasks:
        if not task.model_spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise StatusError(
                Code.INVALID_ARGUMENT, "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        yield examples.Task(task.model_spec.signature_name, task.method_name)


def serialized_examples(message: Any) -> list[bytes]:
    """The tf.Examples of an Input, each with the context's features under its own (bytes of messages concatenate)."""
    kind = message.WhichOneof("kind")
    if kind == "example_list":
        return [example.SerializeToString() for example in message.example_list.examples]
    if kind == "example_list_with_context":
        both = message.example_list_with_context
        context = both.context.SerializeToString()
        return [context + example.SerializeToString() for example in both.examples]
    return []


def signature_def_map(servable: Servable) -> Any:
    """All signatures of a version as a SignatureDefMap."""
    signatures = messages.SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    return signatures


def model_spec(message: Any) -> ModelSpec:
    """A ModelSpec message as ours."""
    choice = message.WhichOneof("version_choice")
    return ModelSpec(
        name=message.name,
        version=message.version.value if choice == "version" else None,
        version_label=message.version_label if choice == "version_label" else None,
        signature_name=message.signature_name,
    )


def _spec(request: Any) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    return model_spec(request.model_spec)


def _set_spec(target: Any, asked: Any, version: int) -> None:
    target.name = asked.name
    target.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    target.version.value = version


@functools.lru_cache(1024)
def _answered_by(name: str, signature_name: str, version: int) -> bytes:
    """A serialized ModelSpec."""
    spec = messages.ModelSpec()
    _set_spec(spec, messages.ModelSpec(name=name, signature_name=signature_name), version)
    serialized: bytes = spec.SerializeToString()
    return serialized


def _fill_classifications(result: Any, rows: Any) -> None:
    for row in rows:
        classes = result.classifications.add()
        for entry in row:
            # The field is a proto3 string; bytes that are not UTF-8 cannot be its value.
            classes.classes.add(label=entry.label.decode("utf-8", "replace"), score=entry.score)


_OPAQUE = {
    number: np.dtype([(name, "V1")])
    for number, name in ((20, "resource"), (21, "variant"), (29, "int4"), (30, "uint4"))
}
"""Types whose tensors no numpy array holds; the name of the field is the type's."""

_QUANTIZED = {
    number: np.dtype([(f"q{name}", name)])
    for number, name in ((11, "int8"), (12, "uint8"), (13, "int32"), (15, "int16"), (16, "uint16"))
}
"""TensorFlow's numpy types for these tensors."""


def _not_parsed(name: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {name}")


class _Tensors(Mapping[str, "NDArray[Any]"]):
    """The request's tensors, each parsed when it is asked for."""

    def __init__(self, protos: Any) -> None:
        self._protos = protos

    def __getitem__(self, name: str) -> NDArray[Any]:
        proto = self._protos[name]
        type: int = proto.dtype
        if type in _OPAQUE:
            sizes = [dimension.size for dimension in proto.tensor_shape.dim]
            if min(sizes, default=0) >= 0 and math.prod(sizes) < 2**63:
                return np.zeros(1, _OPAQUE[type])  # parses, but no signature takes it
        try:
            array = to_array(proto)
        except ValueError:
            raise _not_parsed(name) from None
        if array.dtype == object and array.ndim > inference.MAX_STRING_RANK:
            raise _not_parsed(name)
        return array.view(_QUANTIZED[type]) if type in _QUANTIZED else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def __len__(self) -> int:
        return len(self._protos)
