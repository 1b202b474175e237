"""The gRPC edge: PredictionService, ModelService and, behind its flag, the health service."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.address import bind_address
from servekit.server.core import ServerCore
from servekit.server.grpc_calls import CallServer, Method
from servekit.server.metrics import Metrics
from servekit.server.model_service import get_model_status, handle_reload_config_request
from servekit.server.options import Options
from servekit.server.prediction_service import PredictionService
from servekit.server.serving_map import failed_on
from servekit.server.text_proto import read_message

MAX_MESSAGE_BYTES = 2**31 - 1
WINDOW_BYTES = 1 << 20


class GrpcServer:
    def __init__(self, core: ServerCore, options: Options, metrics: Metrics) -> None:
        self._core = core
        self._options = options
        self._metrics = metrics
        self._server: CallServer | None = None

    def start(self) -> None:
        """Opens the port and the unix socket. Raises StatusError when it cannot."""
        options = self._options
        server = CallServer(
            self._methods(),
            threads=max(options.grpc_max_threads, 1),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                # How much a client may send ahead is fixed, not found out by a ping with every message, which costs
                # both sides as much as reading a photo: 1 MiB, where the probes' first guess is 64 KiB.
                ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
                ("grpc.http2.bdp_probe", 0),
                *channel_arguments(options.grpc_channel_arguments),
            ],
        )
        credentials = server_credentials(options.ssl_config_file)
        try:
            if options.port:
                host = bind_address()
                host = f"[{host}]" if ":" in host else host
                server.listen(f"{host}:{options.port}", credentials)
            if options.grpc_socket_path:
                server.listen(f"unix:{options.grpc_socket_path}", credentials)
        except OSError as error:
            raise StatusError(Code.UNAVAILABLE, f"gRPC cannot listen: {error}") from None
        server.start()
        self._server = server

    def stop(self, grace_s: float) -> None:
        """Running calls get `grace_s` seconds, then they are cancelled."""
        if self._server is not None:
            self._server.stop(grace_s)
        if self._options.grpc_socket_path and os.path.exists(self._options.grpc_socket_path):  # noqa: PTH110
            os.unlink(self._options.grpc_socket_path)  # noqa: PTH108

    def _methods(self) -> dict[str, Method]:
        service = PredictionService(self._core, self._options, self._metrics)
        # A batch's other requests must be able to arrive while one waits.
        kind = None if self._options.enable_batching else leading_field
        prediction = "/tensorflow.serving.PredictionService/"
        model = "/tensorflow.serving.ModelService/"
        methods = {
            prediction + "Predict": _method(self._counted("Predict", service.predict), messages.PredictRequest, kind),
            prediction + "Classify": _method(
                self._counted("Classify", service.classify), messages.ClassificationRequest, kind
            ),
            prediction + "Regress": _method(
                self._counted("Regress", service.regress), messages.RegressionRequest, kind
            ),
            prediction + "MultiInference": _method(
                lambda request: service.multi_inference(request)[1],
                messages.MultiInferenceRequest,
                kind,
            ),
            prediction + "GetModelMetadata": _method(
                lambda request: service.get_model_metadata(request)[1],
                messages.GetModelMetadataRequest,
            ),
            model + "GetModelStatus": _method(
                lambda request: get_model_status(self._core, request),
                messages.GetModelStatusRequest,
            ),
            model + "HandleReloadConfigRequest": _method(
                lambda request: handle_reload_config_request(self._core, request, self._metrics.value),
                messages.ReloadConfigRequest,
            ),
        }
        if self._options.enable_grpc_healthcheck_service:
            methods["/grpc.health.v1.Health/Check"] = Method(_health)
            methods["/grpc.health.v1.Health/Watch"] = Method(_watched_health, stays_open=True)
        return methods

    def _counted(self, api: str, call: Callable[[Any], tuple[int, Any]]) -> Callable[[Any], Any]:
        def count(request: Any) -> Any:
            began = time.perf_counter()
            code, version = Code.OK, None
            try:
                version, response = call(request)
                return response
            except Exception as error:
                code = error.code if isinstance(error, StatusError) else Code.INTERNAL
                failed = failed_on(error)
                version = failed.version if failed else None
                raise
            finally:
                seconds = time.perf_counter() - began
                self._metrics.record_request(request.model_spec.name, api, "GRPC", code, seconds, version)

        return count


def channel_arguments(text: str) -> list[tuple[str, str | int]]:
    """`--grpc_channel_arguments`: `key=value,...`; what is a number is one."""
    pairs: list[tuple[str, str | int]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key and equals:
            pairs.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return pairs


def server_credentials(ssl_config_file: str) -> Any:
    """TLS from an SSLConfig file (PEM texts inline), or None. Raises StatusError."""
    if not ssl_config_file:
        return None
    config = read_message(ssl_config_file, messages.SSLConfig)
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def leading_field(message: bytes) -> bytes:
    """The first field of a message up to 127 bytes long: in requests the ModelSpec. It may be anything."""
    return message[: 2 + message[1]] if len(message) > 1 and message[1] < 128 else b""


def _method(call: Callable[[Any], Any], request_type: Any, kind: Callable[[bytes], Hashable] | None = None) -> Method:
    """A message that does not parse is INTERNAL with no text, as upstream."""

    def answer(data: bytes) -> bytes:
        try:
            request = request_type.FromString(data)
        except DecodeError:
            raise StatusError(Code.INTERNAL, "") from None
        response = call(request)
        serialized: bytes = response if isinstance(response, bytes) else response.SerializeToString()
        return serialized

    return Method(answer, kind=kind)


# grpc.health.v1.Health: the whole server and the two names that TF Serving registers, without a package; no model.


def _health(data: bytes) -> bytes:
    if not _is_known(data):
        raise StatusError(Code.NOT_FOUND, "service name unknown")
    return _SERVING


def _watched_health(data: bytes) -> bytes:
    return _SERVING if _is_known(data) else _SERVICE_UNKNOWN


def _is_known(data: bytes) -> bool:
    """`data` is a HealthCheckRequest; its only field is the string `service`, like a StringValue's `value`."""
    try:
        return StringValue.FromString(data).value in _KNOWN_TO_HEALTH
    except DecodeError:
        raise StatusError(Code.INVALID_ARGUMENT, "could not parse request") from None


_KNOWN_TO_HEALTH = ("", "ModelService", "PredictionService")
_SERVING = b"\x08\x01"
_SERVICE_UNKNOWN = b"\x08\x03"
