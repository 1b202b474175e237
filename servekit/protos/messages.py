"""The protobuf messages of TF Serving, without TensorFlow (its import takes seconds).

They live in a descriptor pool of their own, so that they can stand beside TensorFlow's in one process; between the two,
messages pass as bytes. Built from descriptors.binpb, which `python -m servekit.protos.generate` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_DESCRIPTORS = Path(__file__).parent / "descriptors.binpb"

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


# tensorflow
ConfigProto = _message("tensorflow.ConfigProto")
Example = _message("tensorflow.Example")
SavedModel = _message("tensorflow.SavedModel")
MetaGraphDef = _message("tensorflow.MetaGraphDef")
SignatureDef = _message("tensorflow.SignatureDef")
TensorInfo = _message("tensorflow.TensorInfo")
TensorProto = _message("tensorflow.TensorProto")
TensorShapeProto = _message("tensorflow.TensorShapeProto")

# tensorflow.serving: what clients send and get
ModelSpec = _message("tensorflow.serving.ModelSpec")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
Input = _message("tensorflow.serving.Input")
ClassificationRequest = _message("tensorflow.serving.ClassificationRequest")
ClassificationResponse = _message("tensorflow.serving.ClassificationResponse")
ClassificationResult = _message("tensorflow.serving.ClassificationResult")
RegressionRequest = _message("tensorflow.serving.RegressionRequest")
RegressionResponse = _message("tensorflow.serving.RegressionResponse")
RegressionResult = _message("tensorflow.serving.RegressionResult")
MultiInferenceRequest = _message("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse = _message("tensorflow.serving.MultiInferenceResponse")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
ModelVersionStatus = _message("tensorflow.serving.ModelVersionStatus")
ReloadConfigRequest = _message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = _message("tensorflow.serving.ReloadConfigResponse")
PredictionLog = _message("tensorflow.serving.PredictionLog")

# tensorflow.serving: what its files hold
ModelServerConfig = _message("tensorflow.serving.ModelServerConfig")
ModelConfig = _message("tensorflow.serving.ModelConfig")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")
MonitoringConfig = _message("tensorflow.serving.MonitoringConfig")
SSLConfig = _message("tensorflow.serving.SSLConfig")
PlatformConfigMap = _message("tensorflow.serving.PlatformConfigMap")
