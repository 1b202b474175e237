"""The gRPC edge: PredictionService, ModelService and, behind its flag, the health service.

A synchronous server: a prediction blocks its thread either way, and the asyncio server, which has to hand each call to
a thread and back, answered a third fewer calls a second in our measurements.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.address import bind_address
from servekit.server.core import ServerCore
from servekit.server.metrics import Metrics
from servekit.server.model_service import get_model_status, handle_reload_config_request
from servekit.server.options import Options
from servekit.server.prediction_service import PredictionService
from servekit.server.text_proto import read_message

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
MAX_DETAILS_BYTES = 1024
_TRUNCATED = b"...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}

Method = Callable[[Any], Any]


class GrpcServer:
    def __init__(self, core: ServerCore, options: Options, metrics: Metrics) -> None:
        self._core = core
        self._options = options
        self._metrics = metrics
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Opens the port and the unix socket. Raises StatusError when it cannot."""
        options = self._options
        server = grpc.server(
            ThreadPoolExecutor(max(options.grpc_max_threads, 1), thread_name_prefix="grpc"),
            handlers=self._handlers(),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                *channel_arguments(options.grpc_channel_arguments),
            ],
        )
        credentials = server_credentials(options.ssl_config_file)
        try:
            if options.port:
                host = bind_address()
                host = f"[{host}]" if ":" in host else host
                _listen(server, f"{host}:{options.port}", credentials)
            if options.grpc_socket_path:
                _listen(server, f"unix:{options.grpc_socket_path}", credentials)
        except RuntimeError as error:
            raise StatusError(Code.UNAVAILABLE, f"gRPC cannot listen: {error}") from None
        server.start()
        self._server = server

    def stop(self, grace_s: float) -> None:
        """Running calls get `grace_s` seconds, then they are cancelled."""
        if self._server is not None:
            self._server.stop(grace_s).wait(grace_s + 1)
        if self._options.grpc_socket_path and os.path.exists(self._options.grpc_socket_path):  # noqa: PTH110
            os.unlink(self._options.grpc_socket_path)  # noqa: PTH108

    def _handlers(self) -> list[Any]:
        service = PredictionService(self._core, self._options, self._metrics)
        counted = {
            "Predict": (service.predict, messages.PredictRequest),
            "Classify": (service.classify, messages.ClassificationRequest),
            "Regress": (service.regress, messages.RegressionRequest),
        }
        prediction = {name: _method(self._counted(name, call), kind) for name, (call, kind) in counted.items()}
        prediction["MultiInference"] = _method(
            lambda request: service.multi_inference(request)[1],
            messages.MultiInferenceRequest,
        )
        prediction["GetModelMetadata"] = _method(
            lambda request: service.get_model_metadata(request)[1],
            messages.GetModelMetadataRequest,
        )
        model = {
            "GetModelStatus": _method(
                lambda request: get_model_status(self._core, request),
                messages.GetModelStatusRequest,
            ),
            "HandleReloadConfigRequest": _method(
                lambda request: handle_reload_config_request(self._core, request, self._metrics.value),
                messages.ReloadConfigRequest,
            ),
        }
        handlers = [
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", prediction),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
        ]
        if self._options.enable_grpc_healthcheck_service:
            watchers = max(self._options.grpc_max_threads // 2, 1)
            handlers.append(grpc.method_handlers_generic_handler("grpc.health.v1.Health", _health(watchers)))
        return [*handlers, _Nothing()]

    def _counted(self, api: str, call: Callable[[Any], tuple[int, Any]]) -> Method:
        def count(request: Any) -> Any:
            began = time.perf_counter()
            code, version = Code.OK, None
            try:
                version, response = call(request)
                return response
            except StatusError as error:
                code = error.code
                raise
            except Exception:
                code = Code.INTERNAL
                raise
            finally:
                seconds = time.perf_counter() - began
                self._metrics.record_request(request.model_spec.name, api, "GRPC", code, seconds, version)

        return count


def details(message: str) -> str:
    """A status message as it goes on the wire: at most 1024 bytes, then `...TRUNCATED`."""
    raw = message.encode("utf-8", "surrogateescape")
    if len(raw) > MAX_DETAILS_BYTES:
        raw = raw[:MAX_DETAILS_BYTES] + _TRUNCATED
    return raw.decode("utf-8", "replace")


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


def _listen(server: grpc.Server, address: str, credentials: Any) -> None:
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)


def _method(call: Method, request_type: Any) -> Any:
    """The message is parsed inside the handler: one that does not parse is INTERNAL with no text, as upstream."""

    def handle(data: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return call(request_type.FromString(data))
        except DecodeError:
            return _fail(context, Code.INTERNAL, "")
        except StatusError as error:
            return _fail(context, error.code, error.message)
        except Exception as error:
            logger.exception("a call failed in the server itself")
            return _fail(context, Code.INTERNAL, f"{type(error).__name__}: {error}")

    def serialize(response: Any) -> bytes:
        data: bytes = response.SerializeToString()
        return data

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=serialize)


def _fail(context: grpc.ServicerContext, code: Code, message: str) -> Any:
    # Not context.abort(): it works by raising, and gRPC logs a traceback for that.
    context.set_code(_CODES[int(code)])
    context.set_details(details(message))
    return _EMPTY


class _Empty:
    """What gRPC may serialize for a call that failed; nobody receives it."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        return b""


_EMPTY = _Empty()


class _Nothing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every other method: UNIMPLEMENTED without gRPC Python's own text."""

    def service(self, _call: Any) -> Any:
        def refuse(_data: bytes, context: grpc.ServicerContext) -> bytes:
            context.set_code(grpc.StatusCode.UNIMPLEMENTED)
            context.set_details("")
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


def _health(max_watchers: int) -> dict[str, Any]:
    """grpc.health.v1.Health as a C++ server has it: the whole server, no named service, no model.

    Each Watch holds a thread, so no more than `max_watchers` are let in.
    """
    free = threading.Semaphore(max_watchers)

    def check(data: bytes, context: grpc.ServicerContext) -> bytes:
        if data.strip(b"\n\0"):  # the only field, `service`, is not empty
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("service name unknown")
            return b""
        return _SERVING

    def watch(data: bytes, context: grpc.ServicerContext) -> Any:
        if not free.acquire(blocking=False):
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"{max_watchers} clients watch already")
            return
        try:
            ended = threading.Event()
            if not context.add_callback(ended.set):
                return
            yield _SERVICE_UNKNOWN if data.strip(b"\n\0") else _SERVING
            ended.wait()
        finally:
            free.release()

    return {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }


_SERVING = b"\x08\x01"
_SERVICE_UNKNOWN = b"\x08\x03"
