"""Clients of TF Serving's REST and gRPC APIs: the same methods and answers, sync and async, without TensorFlow.

with Client("http://127.0.0.1:8501") as client:          # or grpc://127.0.0.1:8500
    spec = ModelSpec("imagenet", version_label="canary")
    prediction = client.predict(spec, {"image_bytes": [jpeg]})
    prediction.outputs["labels"]                          # numpy array of bytes, shape [1, 5]
"""

from servekit.client.answers import (
    Class,
    Metadata,
    ModelStatus,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
)
from servekit.client.client import AsyncClient, Client
from servekit.model_spec import ModelSpec

__all__ = [
    "AsyncClient",
    "Class",
    "Client",
    "Metadata",
    "ModelSpec",
    "ModelStatus",
    "Prediction",
    "Signature",
    "TensorSpec",
    "VersionStatus",
]
