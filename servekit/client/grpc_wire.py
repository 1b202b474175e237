"""TF Serving's gRPC API as bytes: PredictionService and ModelService with messages that need no TensorFlow.

Source: `tensorflow_serving/apis/prediction_service.proto`, `model_service.proto`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
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
from servekit.client.wire import Call, Examples, Feature
from servekit.errors import Code, StatusError
from servekit.model_spec import ModelSpec
from servekit.protos import messages
from servekit.tensors import to_array, to_proto

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"


class GrpcWire:
    """Implements `servekit.client.wire.Wire`."""

    def predict(
        self, spec: ModelSpec, inputs: Mapping[str, NDArray[Any]], output_filter: Sequence[str]
    ) -> Call[Callable[[Signature | None], Prediction]]:
        def read(body: bytes) -> Callable[[Signature | None], Prediction]:
            response = _parsed(messages.PredictResponse, body)
            outputs = {name: to_array(proto) for name, proto in sorted(response.outputs.items())}
            prediction = Prediction(outputs, response.model_spec.version.value)
            return lambda _: prediction

        request = messages.PredictRequest(model_spec=model_spec_message(spec), output_filter=output_filter)
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        return Call(f"{_PREDICTION}/Predict", request.SerializeToString(), read)

    def classify(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[list[Class]]]:
        def read(body: bytes) -> list[list[Class]]:
            response = _parsed(messages.ClassificationResponse, body)
            return [
                [Class(entry.label, entry.score) for entry in classifications.classes]
                for classifications in response.result.classifications
            ]

        request = messages.ClassificationRequest(model_spec=model_spec_message(spec))
        request.input.CopyFrom(_input(examples, context))
        return Call(f"{_PREDICTION}/Classify", request.SerializeToString(), read)

    def regress(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[float]]:
        def read(body: bytes) -> list[float]:
            return [entry.value for entry in _parsed(messages.RegressionResponse, body).result.regressions]

        request = messages.RegressionRequest(model_spec=model_spec_message(spec))
        request.input.CopyFrom(_input(examples, context))
        return Call(f"{_PREDICTION}/Regress", request.SerializeToString(), read)

    def status(self, spec: ModelSpec) -> Call[ModelStatus]:
        states = messages.ModelVersionStatus.State

        def read(body: bytes) -> ModelStatus:
            return ModelStatus(
                tuple(
                    VersionStatus(
                        entry.version,
                        states.Name(entry.state),
                        _code(entry.status.error_code),
                        entry.status.error_message,
                    )
                    for entry in _parsed(messages.GetModelStatusResponse, body).model_version_status
                )
            )

        request = messages.GetModelStatusRequest(model_spec=model_spec_message(spec))
        return Call(f"{_MODEL}/GetModelStatus", request.SerializeToString(), read)

    def metadata(self, spec: ModelSpec) -> Call[Metadata]:
        def read(body: bytes) -> Metadata:
            response = _parsed(messages.GetModelMetadataResponse, body)
            signatures = _parsed(messages.SignatureDefMap, response.metadata["signature_def"].value).signature_def
            return Metadata(
                response.model_spec.name,
                response.model_spec.version.value,
                {name: signature_of(definition) for name, definition in sorted(signatures.items())},
            )

        request = messages.GetModelMetadataRequest(
            model_spec=model_spec_message(spec), metadata_field=["signature_def"]
        )
        return Call(f"{_PREDICTION}/GetModelMetadata", request.SerializeToString(), read)

    def reload_config(self, config: Any) -> Call[None]:
        def read(body: bytes) -> None:
            status = _parsed(messages.ReloadConfigResponse, body).status
            if status.error_code:
                raise StatusError(_code(status.error_code), status.error_message)

        request = messages.ReloadConfigRequest(config=config)
        return Call(f"{_MODEL}/HandleReloadConfigRequest", request.SerializeToString(), read)


def model_spec_message(spec: ModelSpec) -> Any:
    message = messages.ModelSpec(name=spec.name, signature_name=spec.signature_name)
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.version_label is not None:
        message.version_label = spec.version_label
    return message


def signature_of(definition: Any) -> Signature:
    """From a `messages.SignatureDef`."""
    return Signature(
        definition.method_name,
        {name: _tensor_spec(name, info) for name, info in sorted(definition.inputs.items())},
        {name: _tensor_spec(name, info) for name, info in sorted(definition.outputs.items())},
    )


def _parsed(message: Any, body: bytes) -> Any:
    try:
        return message.FromString(body)
    except DecodeError as error:
        raise ValueError(f"the answer is no {message.DESCRIPTOR.name}") from error


def _tensor_spec(name: str, info: Any) -> TensorSpec:
    dtypes = messages.TensorInfo.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    dtype = dtypes[info.dtype].name if info.dtype in dtypes else str(info.dtype)
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(name, dtype, shape)


def _input(examples: Examples, context: Mapping[str, Feature]) -> Any:
    message = messages.Input()
    if context:
        listed = message.example_list_with_context
        _fill(listed.context, context)
    else:
        listed = message.example_list
    for example in examples:
        _fill(listed.examples.add(), example)
    return message


def _fill(message: Any, features: Mapping[str, Feature]) -> None:
    """Whole numbers become int64 features, other numbers float, as TF Serving reads them from JSON."""
    for name, value in features.items():
        values: list[Any] = [value] if isinstance(value, (bytes, str, int, float)) else list(value)
        feature = message.features.feature[name]
        if any(isinstance(item, (bytes, str)) for item in values):
            feature.bytes_list.value.extend(item.encode() if isinstance(item, str) else item for item in values)
        elif any(isinstance(item, float) for item in values):
            feature.float_list.value.extend(values)
        elif values:
            feature.int64_list.value.extend(int(item) for item in values)


def _code(number: int) -> Code:
    return Code(number) if number in Code.__members__.values() else Code.UNKNOWN
