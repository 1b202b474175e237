"""The REST edge: TF Serving's routes, status codes and JSON around the protocol-free core."""

from __future__ import annotations

import re
import time
import urllib.parse
import zlib
from dataclasses import dataclass

from servekit.errors import Code, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec
from servekit.monitoring.process import memory_limit_bytes, process_samples, process_usage
from servekit.protos import messages
from servekit.server import examples, inference, json_answers
from servekit.server.address import bind_address
from servekit.server.core import ServerCore
from servekit.server.http import HttpServer
from servekit.server.http_request import Request
from servekit.server.http_response import Response, html_page
from servekit.server.json_examples import examples_of
from servekit.server.json_parse import parse
from servekit.server.json_tensors import inputs_of
from servekit.server.json_value import Object, shown
from servekit.server.metrics import Metrics
from servekit.server.model_service import status_response
from servekit.server.options import Options
from servekit.server.prediction_service import signature_def_map
from servekit.server.servable import Servable
from servekit.server.text_proto import read_message
from servekit.server.uri import path_and_rest

METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_UNCOMPRESSED_BYTES = 100 * 1024 * 1024

HTTP_STATUS = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""Everything else is 500."""

_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
_API = re.compile(r"/v1/.*", _FLAGS)
_MODEL = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(rf"/v1/models/(?P<model>[^/:]+){_MODEL}:(?P<verb>classify|regress|predict)", _FLAGS)
_STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_MODEL}(?:/(?P<part>metadata))?", _FLAGS)
_ORIGIN = re.compile(r"https?://")

_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


@dataclass(slots=True)
class _Call:
    """What the metrics say of a request; filled in as far as it came."""

    model: str = ""
    api: str = ""
    version: int | None = None
    code: Code = Code.OK


class RestServer:
    def __init__(self, core: ServerCore, options: Options, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._check_method_name = options.enable_signature_method_name_check
        self._cors = _CORS if options.rest_api_enable_cors_support else ()
        self._metrics_path = _metrics_path(options)
        self._batching = options.enable_batching
        self._server = HttpServer(
            self.respond,
            host=bind_address(),
            port=options.rest_api_port,
            threads=max(options.rest_api_num_threads - 1, 1),  # one of upstream's runs the event loop
            timeout_s=options.rest_api_timeout_in_ms / 1000,
            timed_out=self._timed_out,
            may_be_quick=self._may_be_quick,
        )

    def start(self) -> None:
        """Opens the port. Raises StatusError when it cannot."""
        try:
            self._server.start()
        except OSError as error:
            raise StatusError(Code.UNAVAILABLE, f"HTTP/REST cannot listen: {error}") from None

    def stop(self, grace_s: float) -> None:
        self._server.stop(grace_s)

    def respond(self, request: Request) -> Response:
        """The answer to any request; never raises."""
        parts = path_and_rest(request.target)
        if parts is None:
            return html_page(400)
        target = "".join(parts)
        if parts[0] == self._metrics_path:
            return self._metrics_page(target)
        if not _API.fullmatch(target):
            return html_page(404)
        began = time.perf_counter()
        call = _Call()
        try:
            response = self._route(request, target, call)
        except StatusError as error:
            call.code = error.code
            response = Response(HTTP_STATUS.get(error.code, 500), json_answers.error_answer(error.message))
        except Exception as error:  # noqa: BLE001  the outermost handler: the client is told, the server lives
            call.code = Code.INTERNAL
            response = Response(500, json_answers.error_answer(f"{type(error).__name__}: {error}"))
        seconds = time.perf_counter() - began
        if not request.given_up:
            self._metrics.record_request(call.model, call.api, "REST", call.code, seconds, call.version)
        return Response(response.status, response.body, response.content_type, (*response.headers, *self._cors))

    def _may_be_quick(self, request: Request) -> bool:
        """Of a batch the others must be able to arrive while one waits; a page of metrics takes milliseconds."""
        return not self._batching and request.target != self._metrics_path

    def _timed_out(self, request: Request) -> Response:
        """Counts as upstream counts it, instead of what becomes of the request after all."""
        request.given_up = True
        match = _PREDICTION.fullmatch("".join(path_and_rest(request.target) or ()))
        model, api = (_decoded(match["model"]), match["verb"]) if match else ("", "")
        self._metrics.record_request(model, api, "REST", Code.DEADLINE_EXCEEDED, 0.0)
        return Response(504, json_answers.error_answer("Timed out waiting for notification"), headers=self._cors)

    def _route(self, request: Request, target: str, call: _Call) -> Response:
        if request.method == "OPTIONS":
            if _ORIGIN.search(request.headers.get("origin", "")) is None:
                call.code = Code.FAILED_PRECONDITION
            return Response(HTTP_STATUS[call.code], content_type="")
        if request.method == "POST" and (match := _PREDICTION.fullmatch(target)):
            verb, call.model = match["verb"], _decoded(match["model"])
            spec = _spec(match)
            if spec is None:
                call.code = Code.INVALID_ARGUMENT
                return Response(400)
            if verb in _APIS:
                call.api = verb
                return Response(200, self._infer(verb, spec, _body(request), call))
        elif request.method == "GET" and (match := _STATUS.fullmatch(target)):
            call.model = _decoded(match["model"] or "")
            spec = _spec(match)
            if spec is None:
                call.code = Code.INVALID_ARGUMENT
                return Response(400)
            if not spec.name:
                raise StatusError(Code.INVALID_ARGUMENT, "Missing model name in request.")
            return Response(200, self._metadata(spec) if match["part"] == "metadata" else self._status(spec))
        raise StatusError(Code.INVALID_ARGUMENT, f"Malformed request: {request.method} {target}")

    def _infer(self, verb: str, spec: ModelSpec, body: bytes, call: _Call) -> bytes:
        document = parse(body)
        signature_name = _signature_name(document)
        if verb == "predict":
            return self._predict(spec, document, signature_name, call)
        serialized = examples_of(document)
        with self._core.handle(spec) as handle:
            call.version = handle.id.version
            answer_of = _classify if verb == "classify" else _regress
            return answer_of(
                handle.servable,
                signature_name,
                serialized,
                self._check_method_name,
                lambda seconds: self._metrics.record_runtime(spec.name, _APIS[verb], seconds),
            )

    def _predict(self, spec: ModelSpec, document: Object, signature_name: str, call: _Call) -> bytes:
        with self._core.handle(spec) as handle:
            call.version = handle.id.version
            name = signature_name or DEFAULT_SIGNATURE
            signature = handle.servable.signature_defs.get(name)
            if signature is None:
                raise StatusError(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise StatusError(
                    Code.INVALID_ARGUMENT, f"Failed to get input map for signature: {signature_name or 'DEFAULT'}"
                )
            inputs, is_row = inputs_of(document, signature.inputs)
            began = time.perf_counter()
            outputs = inference.predict(handle.servable, name, inputs, check_method_name=self._check_method_name)
            self._metrics.record_runtime(spec.name, "Predict", time.perf_counter() - began)
            return json_answers.row_answer(outputs) if is_row else json_answers.column_answer(outputs)

    def _status(self, spec: ModelSpec) -> bytes:
        return json_answers.status_answer(status_response(self._core.states(spec.name, spec.version)))

    def _metadata(self, spec: ModelSpec) -> bytes:
        with self._core.handle(spec) as handle:
            resolved = messages.ModelSpec(name=spec.name)
            resolved.version.value = handle.id.version
            return json_answers.metadata_answer(resolved, signature_def_map(handle.servable))

    def _metrics_page(self, target: str) -> Response:
        if target != self._metrics_path:
            text = f"Unexpected path: {target}. Should be {self._metrics_path}"
            return Response(400, text.encode("utf-8", "surrogateescape"), "text/plain")
        told = [*self._core.served(), *process_samples(process_usage(), memory_limit_bytes())]
        return Response(200, self._metrics.page(told).encode(), "text/plain")


def _classify(servable: Servable, name: str, serialized: list[bytes], check: bool, ran: examples.Ran) -> bytes:
    return json_answers.classify_answer(examples.classify(servable, name, serialized, check_method_name=check, ran=ran))


def _regress(servable: Servable, name: str, serialized: list[bytes], check: bool, ran: examples.Ran) -> bytes:
    return json_answers.regress_answer(examples.regress(servable, name, serialized, check_method_name=check, ran=ran))


def _spec(match: re.Match[str]) -> ModelSpec | None:
    """None for a version beyond int64. Names are percent-decoded, nothing else is."""
    version = int(match["version"]) if match["version"] else None
    if version is not None and version >= 2**63:
        return None
    label = _decoded(match["label"]) if match["label"] else None
    return ModelSpec(_decoded(match["model"] or ""), version, label)


def _decoded(text: str) -> str:
    return urllib.parse.unquote(text, errors="surrogateescape")


def _signature_name(document: Object) -> str:
    found, name = document.find("signature_name")
    if found and not isinstance(name, str):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value.",
        )
    return str(name) if found else ""


def _body(request: Request) -> bytes:
    """Uncompressed; a gzip body that is broken, too large or followed by anything is an empty document, as upstream."""
    if "gzip" not in request.headers.get("content-encoding", ""):
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(request.body, MAX_UNCOMPRESSED_BYTES + 1)
    except zlib.error:
        return b""
    whole = inflater.eof and not inflater.unused_data and len(body) <= MAX_UNCOMPRESSED_BYTES
    return body if whole else b""


def _metrics_path(options: Options) -> str | None:
    if not options.monitoring_config_file:
        return None
    prometheus = read_message(options.monitoring_config_file, messages.MonitoringConfig).prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None
