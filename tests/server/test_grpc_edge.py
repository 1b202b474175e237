"""The gRPC edge of a running server: its services, errors, TLS and unix socket."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from servekit.protos import messages
from servekit.server.grpc_calls import details
from servekit.server.grpc_edge import channel_arguments
from servekit.tensors import to_array, to_proto
from tests.conftest import RunningServer, Serve

SERVICE = "tensorflow.serving.PredictionService"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve(
        "--model_name=half_plus_two",
        f"--model_base_path={models}/half_plus_two",
        "--enable_grpc_healthcheck_service=true",
        "--grpc_socket_path={work}/grpc.sock",
    )


@pytest.fixture(scope="module")
def call(server: RunningServer) -> Iterator[Call]:
    """call(method, request message or bytes, response type) -> response; raises grpc.RpcError."""
    with grpc.insecure_channel(server.grpc, options=UNLIMITED) as channel:

        def send(method: str, request: Any, response: Any, service: str = SERVICE) -> Any:
            data = request if isinstance(request, bytes) else request.SerializeToString()
            return channel.unary_unary(f"/{service}/{method}", response_deserializer=response.FromString)(
                data, timeout=10
            )

        yield send


def test_grpcs_core_knows_every_experiment_that_is_switched_off(server: RunningServer) -> None:
    """It complains in the log about names that it does not know."""
    assert "experiment" not in server.log_text()


def predict_request(*x: float, name: str = "half_plus_two", signature_name: str = "") -> Any:
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    request.inputs["x"].CopyFrom(to_proto(np.array(x, np.float32)))
    return request


def example_input(x: float) -> Any:
    message = messages.Input()
    message.example_list.examples.add().features.feature["x"].float_list.value.append(x)
    return message


def error_of(call: Call, *arguments: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value.code().name, caught.value.details()


def test_predict_answers_with_the_version_it_used(call: Call) -> None:
    response = call("Predict", predict_request(1, 2), messages.PredictResponse)
    assert to_array(response.outputs["y"]).tolist() == [3.5, 4.0]
    assert list(response.outputs["y"].float_val) == [3.5, 4.0]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "serving_default")


def test_twelve_megabytes_pass_both_ways(call: Call) -> None:
    response = call("Predict", predict_request(*([1.0] * 3_000_000)), messages.PredictResponse)
    assert set(response.outputs["y"].float_val) == {3.5}


def test_classify_regress_and_multi_inference(call: Call) -> None:
    request = messages.ClassificationRequest(input=example_input(1))
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "classify"
    (row,) = call("Classify", request, messages.ClassificationResponse).result.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("first", 3.5), ("second", -3.5)]

    regression = messages.RegressionRequest(input=example_input(1))
    regression.model_spec.name, regression.model_spec.signature_name = "half_plus_two", "regress"
    assert call("Regress", regression, messages.RegressionResponse).result.regressions[0].value == 3.5

    multi = messages.MultiInferenceRequest(input=example_input(1))
    task = multi.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.CopyFrom(regression.model_spec)
    (result,) = call("MultiInference", multi, messages.MultiInferenceResponse).results
    assert result.regression_result.regressions[0].value == 3.5
    assert result.model_spec.version.value == 2


def test_metadata_and_status(call: Call) -> None:
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    response = call("GetModelMetadata", request, messages.GetModelMetadataResponse)
    signatures = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "classify", "regress"}

    status = messages.GetModelStatusRequest()
    status.model_spec.name = "half_plus_two"
    answer = call("GetModelStatus", status, messages.GetModelStatusResponse, service="tensorflow.serving.ModelService")
    assert [(state.version, state.state) for state in answer.model_version_status] == [(2, 30)]


def test_errors_have_upstreams_codes_and_texts(call: Call) -> None:
    response = messages.PredictResponse
    assert error_of(call, "Predict", b"", response) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert error_of(call, "Predict", predict_request(1, name="nope"), response) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nope)",
    )
    assert error_of(call, "Predict", predict_request(1, signature_name="nope"), response) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    )
    bad = predict_request(1)
    bad.inputs["x"].tensor_content = b"abc"
    assert error_of(call, "Predict", bad, response) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_multi_inference_checks_one_task_after_the_other(call: Call) -> None:
    response = messages.MultiInferenceResponse
    request = messages.MultiInferenceRequest()
    assert error_of(call, "MultiInference", request, response) == (
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    )
    request.tasks.add(method_name="tensorflow/serving/regress").model_spec.name = "half_plus_two"
    request.tasks[0].model_spec.signature_name = "nope"
    request.tasks.add(method_name="tensorflow/serving/regress").model_spec.name = "another"
    assert error_of(call, "MultiInference", request, response) == (
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nope",
    )


def test_quantized_tensors_keep_their_type(call: Call) -> None:
    request = predict_request(1)
    request.inputs["x"].CopyFrom(messages.TensorProto(dtype="DT_QUINT8", int_val=[1]))
    assert error_of(call, "Predict", request, messages.PredictResponse) == (
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but quint8 is provided",
    )


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([1], "Expects arg[0] to be float but variant is provided"),
        ([-1], "tensor parsing error: x"),
        ([2**62, 4], "tensor parsing error: x"),
    ],
)
def test_tensors_that_no_array_holds_parse_where_their_shape_does(call: Call, sizes: list[int], text: str) -> None:
    request = predict_request(1)
    request.inputs["x"].CopyFrom(messages.TensorProto(dtype="DT_VARIANT"))
    for size in sizes:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    assert error_of(call, "Predict", request, messages.PredictResponse) == ("INVALID_ARGUMENT", text)


def test_what_is_no_message_or_no_method(call: Call) -> None:
    response = messages.PredictResponse
    assert error_of(call, "Predict", b"\xff\xff\xff", response) == ("INTERNAL", "")
    assert error_of(call, "Nope", b"", response) == ("UNIMPLEMENTED", "")
    assert error_of(call, "Bar", b"", response, service="foo.Foo") == ("UNIMPLEMENTED", "")


def test_health_knows_the_server_its_two_services_and_no_model(call: Call) -> None:
    class Bytes:
        @staticmethod
        def FromString(data: bytes) -> bytes:  # noqa: N802
            return data

    assert call("Check", b"", Bytes, service="grpc.health.v1.Health") == b"\x08\x01"
    for service in (b"\n\x0cModelService", b"\n\x11PredictionService"):
        assert call("Check", service, Bytes, service="grpc.health.v1.Health") == b"\x08\x01"
    named = b"\n\x0dhalf_plus_two"
    assert error_of(call, "Check", named, Bytes, service="grpc.health.v1.Health") == (
        "NOT_FOUND",
        "service name unknown",
    )
    # default_health_check_service.cc of gRPC: fields that it does not know do not matter, bytes that are no message do.
    assert call("Check", b"\x12\0", Bytes, service="grpc.health.v1.Health") == b"\x08\x01"
    for wrong in (b"\xff", b"\n\x05abc", b"\n\x01\xff"):
        assert error_of(call, "Check", wrong, Bytes, service="grpc.health.v1.Health") == (
            "INVALID_ARGUMENT",
            "could not parse request",
        )


def test_the_unix_socket_answers_too(server: RunningServer) -> None:
    with grpc.insecure_channel(f"unix:{server.work}/grpc.sock") as channel:
        data = channel.unary_unary(f"/{SERVICE}/Predict")(predict_request(1).SerializeToString(), timeout=10)
    assert to_array(messages.PredictResponse.FromString(data).outputs["y"]).tolist() == [3.5]


@pytest.mark.slow
def test_tls_asks_for_the_clients_certificate_when_told_to(serve: Serve, models: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {key} -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    config = messages.SSLConfig(
        server_key=key.read_text(), server_cert=certificate.read_text(), custom_ca=certificate.read_text()
    )
    config.client_verify = True
    server = serve(
        f"--model_base_path={models}/half_plus_two",
        "--ssl_config_file={work}/ssl.config",
        files={"ssl.config": str(config)},
    )
    request = predict_request(1, name="default").SerializeToString()
    address = f"localhost:{server.grpc_port}"
    both = grpc.ssl_channel_credentials(certificate.read_bytes(), key.read_bytes(), certificate.read_bytes())
    with grpc.secure_channel(address, both) as channel:
        data = channel.unary_unary(f"/{SERVICE}/Predict")(request, timeout=10)
        assert to_array(messages.PredictResponse.FromString(data).outputs["y"]).tolist() == [3.5]
    anonymous = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(address, anonymous) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/Predict")(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_long_details_are_cut() -> None:
    assert details("short é") == "short é".encode()
    assert details("x" * 1025) == b"x" * 1024 + b"...TRUNCATED"


def test_channel_arguments_are_numbers_where_they_look_like_it() -> None:
    assert channel_arguments("grpc.a=1,grpc.b=text,,junk,grpc.c=-2") == [
        ("grpc.a", 1),
        ("grpc.b", "text"),
        ("grpc.c", -2),
    ]
