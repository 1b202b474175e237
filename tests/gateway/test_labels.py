"""Requests without version and label get a label, over both protocols; the others pass untouched."""

from __future__ import annotations

import math

import pytest

from servekit.gateway.splits import Split
from servekit.protos import messages
from tests.conftest import RunningServer
from tests.gateway.conftest import ANSWERS, MODEL, Gateway, predict_request, tally

COUNT = 300


@pytest.fixture(autouse=True)
def half(gateway: Gateway) -> None:
    if gateway.splits != {MODEL: Split(weight=50, sticky="X-User-Id")}:
        gateway.set(Split(weight=50, sticky="X-User-Id"))


def assert_near(canary: int, percent: float, count: int = COUNT) -> None:
    """Within four and a half standard deviations: one run in 150,000 fails by chance."""
    expected = count * percent / 100
    assert abs(canary - expected) <= 4.5 * math.sqrt(count * percent / 100 * (1 - percent / 100)), (canary, expected)


@pytest.mark.parametrize("percent", [0, 10, 50, 100])
@pytest.mark.slow
def test_the_weight_is_the_share_of_the_canary_over_both_protocols(gateway: Gateway, percent: int) -> None:
    gateway.set(Split(weight=percent))
    for ask in (gateway.rest_predict, gateway.grpc_predict):
        assert_near(tally(ask, COUNT)["canary"], percent)


@pytest.mark.slow
def test_one_user_always_gets_the_same_label_over_both_protocols(gateway: Gateway) -> None:
    def rest(user: int) -> str:
        return gateway.rest_predict({"x-user-id": f"user-{user}"})

    def over_grpc(user: int) -> str:
        return gateway.grpc_predict(metadata=(("x-user-id", f"user-{user}"),))

    first = [rest(user) for user in range(COUNT)]
    assert first == [over_grpc(user) for user in range(COUNT)] == [rest(user) for user in range(COUNT)]
    assert_near(first.count("canary"), 50)
    gateway.set(Split(weight=60, sticky="x-user-id"))
    grown = [rest(user) for user in range(COUNT)]
    assert_near(grown.count("canary"), 60)
    assert all(after == "canary" for before, after in zip(first, grown, strict=True) if before == "canary")


@pytest.mark.parametrize(("choice", "label"), [({"label": "stable"}, "stable"), ({"label": "canary"}, "canary"),
                                               ({"version": 1}, "stable"), ({"version": 2}, "canary")])  # fmt: skip
def test_explicit_versions_and_labels_pass_untouched(gateway: Gateway, choice: dict[str, int], label: str) -> None:
    for _ in range(10):
        assert gateway.grpc_predict(predict_request(**choice)) == label  # type: ignore[arg-type]
        path = f"/labels/{choice['label']}" if "label" in choice else f"/versions/{choice['version']}"
        assert ANSWERS[gateway.predict(path).json()["predictions"][0]] == label


def test_answers_say_which_label_answered(gateway: Gateway) -> None:
    for _ in range(10):
        answer = gateway.predict()
        assert ANSWERS[answer.json()["predictions"][0]] == answer.headers["x-servekit-label"]
        response, headers = gateway.call("Predict", predict_request(), messages.PredictResponse)
        assert {"stable": 1, "canary": 2}[headers["x-servekit-label"]] == response.model_spec.version.value
    assert gateway.predict("/labels/canary").headers["x-servekit-label"] == "canary"
    assert gateway.predict("/versions/2").headers["x-servekit-version"] == "2"
    assert "x-servekit-label" not in gateway.predict("/versions/2").headers
    _, headers = gateway.call("Predict", predict_request(version=2), messages.PredictResponse)
    assert headers["x-servekit-version"] == "2"


def test_headers_of_the_gateway_s_own_are_worth_nothing_from_a_client(gateway: Gateway) -> None:
    gateway.set(Split(weight=0))
    forged = {
        "x-servekit-route": "rest.canary",
        "x-servekit-label": "canary",
        "x-servekit-copy": "predict/half_plus_two",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/v1/models/half_plus_two/labels/canary:predict",
    }
    answer = gateway.predict(headers=forged)
    assert answer.json() == {"predictions": [2.5]}
    assert answer.headers["x-servekit-label"] == "stable"
    forged["x-servekit-route"] = "grpc.canary"
    assert gateway.grpc_predict(metadata=tuple(forged.items())) == "stable"
    assert gateway.http.get("/metrics", headers={"x-servekit-route": "metrics"}).status_code == 404


def test_classify_regress_metadata_and_multi_inference_are_labelled_too(gateway: Gateway) -> None:
    gateway.set(Split(weight=0))
    example = messages.Input()
    example.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    for method, request, response, signature in (
        ("Classify", messages.ClassificationRequest(), messages.ClassificationResponse, "classify"),
        ("Regress", messages.RegressionRequest(), messages.RegressionResponse, "regress"),
    ):
        request.input.CopyFrom(example)
        request.model_spec.name, request.model_spec.signature_name = MODEL, signature
        answer, headers = gateway.call(method, request, response)
        assert (answer.model_spec.version.value, headers["x-servekit-label"]) == (1, "stable")
    both = messages.MultiInferenceRequest(input=example)
    for method, signature in (("classify", "classify"), ("regress", "regress")):
        task = both.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = MODEL, signature
    for weight, version in ((0, 1), (100, 2)):
        gateway.set(Split(weight=weight))
        answer, _ = gateway.call("MultiInference", both, messages.MultiInferenceResponse)
        assert [result.model_spec.version.value for result in answer.results] == [version, version]
    both.tasks[0].model_spec.version.value = 1
    both.tasks[1].model_spec.version.value = 1
    answer, _ = gateway.call("MultiInference", both, messages.MultiInferenceResponse)
    assert answer.results[0].model_spec.version.value == 1
    gateway.set(Split(weight=0))
    metadata = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = MODEL
    answer, _ = gateway.call("GetModelMetadata", metadata, messages.GetModelMetadataResponse)
    assert answer.model_spec.version.value == 1
    body = gateway.http.get(f"/v1/models/{MODEL}/metadata").json()
    assert body["model_spec"]["version"] == "1"


def test_what_clients_of_the_bare_server_ask_besides_predictions_passes(
    gateway: Gateway, server: RunningServer
) -> None:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = MODEL
    status, _ = gateway.call("tensorflow.serving.ModelService/GetModelStatus", request, messages.GetModelStatusResponse)
    assert [one.version for one in status.model_version_status] == [2, 1]
    paths = (
        f"/v1/models/{MODEL}", f"/v1/models/{MODEL}/labels/canary", f"/v1/models/{MODEL}/labels/canary/metadata",
        f"/v1/models/{MODEL}/versions/2/metadata", "/v1/models/nobody", "/", "/v1/models/", "/v2/health",
    )  # fmt: skip
    for path in paths:
        bare = gateway.http.get(f"{server.rest}{path}")
        through = gateway.http.get(path)
        assert (through.status_code, through.text) == (bare.status_code, bare.text), path
    for path in ("/v1/models/nobody:predict", f"/v1/models/{MODEL}/labels/nobody:predict"):
        bare, through = (gateway.http.post(f"{base}{path}", json={"instances": [1.0]}) for base in (server.rest, ""))
        assert (through.status_code, through.text) == (bare.status_code, bare.text), path


@pytest.mark.parametrize(
    "path",
    [
        f"/V1/models/{MODEL}:predict",
        f"/v1/MODELS/{MODEL}:predict",
        "/v1/models/half%5fplus_two:predict",
        f"/v1/models/{MODEL}:predict?x=1",
        f"/v1/models/{MODEL}:PREDICT",
        f"/v1/models/{MODEL}/:predict",
        f"//v1/models/{MODEL}:predict",
        f"/v1/../v1/models/{MODEL}:predict",
        f"/v1/models/{MODEL}/versions:predict",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_label(gateway: Gateway, path: str) -> None:
    gateway.set(Split(weight=0))
    answer = gateway.http.post(gateway.rest + path, json={"instances": [1.0]})
    assert answer.status_code != 200 or answer.json() == {"predictions": [2.5]}


def test_a_model_without_the_label_stable_is_not_labelled(gateway: Gateway) -> None:
    gateway.set(None)
    assert gateway.rest_predict() == gateway.grpc_predict() == "canary"  # the highest version, as ever
    assert "x-servekit-label" not in gateway.predict().headers
