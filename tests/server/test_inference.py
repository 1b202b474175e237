"""Predict, classify, regress and multi-inference on real SavedModels, below any protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server import examples, inference, prediction_service
from servekit.server.inference import CLASSIFY, REGRESS
from servekit.server.metrics import Metrics
from servekit.server.session import SavedModelSession, load_saved_model


@pytest.fixture(scope="module")
def half_plus_two(models: Path) -> Iterator[SavedModelSession]:
    session = load_saved_model(models / "half_plus_two" / "1")
    yield session
    session.close()


def example(x: float) -> bytes:
    message = messages.Example()
    message.features.feature["x"].float_list.value.append(x)
    serialized: bytes = message.SerializeToString()
    return serialized


def refusal(code: Code, text: str) -> pytest.RaisesExc[StatusError]:
    return pytest.RaisesExc(StatusError, check=lambda error: (error.code, error.message) == (code, text))


def test_a_signature_is_run_by_its_names(half_plus_two: SavedModelSession) -> None:
    outputs = inference.predict(half_plus_two, "", {"x": np.array([1, 2], np.float32)})
    assert {name: array.tolist() for name, array in outputs.items()} == {"y": [2.5, 3.0]}


def test_shapes_are_not_checked_but_by_kernels(half_plus_two: SavedModelSession) -> None:
    assert inference.predict(half_plus_two, "", {"x": np.array([[1, 2]], np.float32)})["y"].tolist() == [[2.5, 3.0]]
    assert inference.predict(half_plus_two, "", {"x": np.array(1, np.float32)})["y"].shape == ()


def test_names_and_types_must_be_the_signatures(half_plus_two: SavedModelSession) -> None:
    x = np.array([1], np.float32)
    with refusal(Code.FAILED_PRECONDITION, 'Serving signature key "nope" not found.'):
        inference.predict(half_plus_two, "nope", {"x": x})
    with refusal(
        Code.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ):
        inference.predict(half_plus_two, "", {"x": x, "z": x})
    with refusal(
        Code.INVALID_ARGUMENT,
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: ",
    ):
        inference.predict(half_plus_two, "", {"z": x})
    with refusal(Code.INVALID_ARGUMENT, "Expects arg[0] to be float but double is provided"):
        inference.predict(half_plus_two, "", {"x": np.array([1.0])})


class WithDefault:
    """A Servable whose input `b` may be left out."""

    signature_defs: Mapping[str, Any] = {
        "serving_default": text_format.Parse(
            'inputs { key: "a" value { name: "a:0" } } inputs { key: "b" value { name: "b:0" } } '
            'outputs { key: "y" value { name: "y:0" } } '
            'defaults { key: "b" value { dtype: DT_FLOAT float_val: 7 } }',
            messages.SignatureDef(),
        )
    }

    def run(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        return [feeds["a:0"] + feeds["b:0"]]

    def close(self) -> None:
        pass


def test_an_input_with_a_default_may_be_left_out_but_no_other_name_put_in() -> None:
    x = np.array([1], np.float32)
    assert inference.predict(WithDefault(), "", {"a": x})["y"].tolist() == [8]
    with refusal(Code.INVALID_ARGUMENT, "Inputs contains invalid name. Used request inputs: a, request input: a,z"):
        inference.predict(WithDefault(), "", {"a": x, "z": x})


def test_the_output_filter_names_known_outputs_once(half_plus_two: SavedModelSession) -> None:
    x = {"x": np.array([1], np.float32)}
    assert list(inference.predict(half_plus_two, "", x, ["y"])) == ["y"]
    with refusal(
        Code.INVALID_ARGUMENT, "output tensor alias not found in signature: z Outputs expected to be in the set {y}."
    ):
        inference.predict(half_plus_two, "", x, ["z"])
    with refusal(Code.INVALID_ARGUMENT, "duplicate output tensor alias: y"):
        inference.predict(half_plus_two, "", x, ["y", "y"])


def test_classify_and_regress_read_examples(half_plus_two: SavedModelSession) -> None:
    rows = examples.classify(half_plus_two, "classify", [example(1), example(2)])
    assert [[(entry.label, entry.score) for entry in row] for row in rows] == [
        [(b"first", 2.5), (b"second", -2.5)],
        [(b"first", 3.0), (b"second", -3.0)],
    ]
    assert examples.regress(half_plus_two, "regress", [example(1), example(2)]) == [2.5, 3.0]


def test_multi_inference_answers_in_the_order_of_its_tasks(half_plus_two: SavedModelSession) -> None:
    tasks = [examples.Task("regress", REGRESS), examples.Task("classify", CLASSIFY)]
    values, classes = examples.multi_inference(half_plus_two, tasks, [example(1)])
    assert values == [2.5]
    assert classes == [[examples.Class(b"first", 2.5), examples.Class(b"second", -2.5)]]


def test_examples_and_signatures_that_do_not_fit(half_plus_two: SavedModelSession) -> None:
    with refusal(Code.INVALID_ARGUMENT, "Input is empty."):
        examples.regress(half_plus_two, "regress", [])
    with refusal(Code.INVALID_ARGUMENT, "No signature was found with the name: nope"):
        examples.regress(half_plus_two, "nope", [example(1)])
    with refusal(Code.INVALID_ARGUMENT, "Expected one output Tensor."):
        examples.regress(half_plus_two, "classify", [example(1)])
    with refusal(Code.UNIMPLEMENTED, "Unsupported signature method_name: nope"):
        examples.multi_inference(half_plus_two, [examples.Task("regress", "nope")], [example(1)])
    with refusal(Code.INVALID_ARGUMENT, "Duplicate evaluation of signature: regress"):
        examples.multi_inference(half_plus_two, [examples.Task("regress", REGRESS)] * 2, [example(1)])


def test_the_method_name_is_checked_only_when_asked(half_plus_two: SavedModelSession) -> None:
    with refusal(
        Code.INVALID_ARGUMENT,
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/regress",
    ):
        examples.classify(half_plus_two, "regress", [example(1)], check_method_name=True)


def test_errors_of_the_runtime_have_its_code(models: Path) -> None:
    session = load_saved_model(models / "failing" / "1")
    with pytest.raises(StatusError, match="x must not be negative") as caught:
        inference.predict(session, "", {"x": np.array([-1], np.float32)})
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert inference.predict(session, "", {"x": np.array([4], np.float32)})["root"].tolist() == [2]
    session.close()


def test_folders_that_are_no_saved_model(tmp_path: Path, models: Path) -> None:
    with pytest.raises(StatusError, match="does not appear to contain a SavedModel bundle") as caught:
        load_saved_model(tmp_path)
    assert caught.value.code is Code.NOT_FOUND
    (tmp_path / "saved_model.pb").write_bytes(b"not a SavedModel")
    with refusal(Code.DATA_LOSS, f"Can't parse {tmp_path}/saved_model.pb as binary proto"):
        load_saved_model(tmp_path)
    with pytest.raises(StatusError, match=r"matching supplied tags: \{ gpu train \}"):
        load_saved_model(models / "half_plus_two" / "1", tags=["train", "gpu"])


def test_a_version_without_variables_loads_and_then_fails(tmp_path: Path, models: Path) -> None:
    graph = (models / "half_plus_two" / "1" / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(graph)
    session = load_saved_model(tmp_path)
    with pytest.raises(StatusError, match=r"ould not find variable|ninitialized"):
        inference.predict(session, "", {"x": np.array([1], np.float32)})
    session.close()


class Wide:
    """A Servable whose regression has two values a row, which is one too many."""

    signature_defs: Mapping[str, Any] = {
        "regress": text_format.Parse(
            'inputs { key: "inputs" value { name: "e:0" } } outputs { key: "outputs" value { name: "y:0" } }',
            messages.SignatureDef(),
        )
    }

    def run(self, feeds: Mapping[str, NDArray[Any]], _fetches: Sequence[str]) -> list[NDArray[Any]]:
        return [np.ones((len(rows), 2), np.float32) for rows in feeds.values()]

    def close(self) -> None:
        pass


def test_a_run_counts_before_its_outputs_are_looked_at_and_in_warm_up_under_the_records_name() -> None:
    """`RecordRuntimeLatency` stands in regressor.cc and predict_util.cc, which answer warm-up's requests too."""
    metrics = Metrics()
    log = messages.PredictionLog()
    request = log.regress_log.request
    request.model_spec.name, request.model_spec.signature_name = "recorded", "regress"
    request.input.example_list.examples.add()
    with refusal(
        Code.INVALID_ARGUMENT,
        "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
    ):
        prediction_service.run_log(Wide(), log, metrics)
    page = metrics.page().splitlines()
    name = ":tensorflow:serving:runtime_latency_count"
    assert f'{name}{{model_name="recorded",API="Regress",runtime="TF1"}} 1' in page


def test_examples_of_a_multi_inference_count_before_its_outputs_are_looked_at() -> None:
    """`RecordRequestExampleCount` of multi_inference.cc."""
    metrics = Metrics()
    log = messages.PredictionLog()
    request = log.multi_inference_log.request
    task = request.tasks.add(method_name=REGRESS)
    task.model_spec.name, task.model_spec.signature_name = "recorded", "regress"
    request.input.example_list.examples.add()
    request.input.example_list.examples.add()
    with pytest.raises(StatusError, match="Expected output Tensor shape"):
        prediction_service.run_log(Wide(), log, metrics)
    assert ':tensorflow:serving:request_example_count_total{model="recorded"} 2' in metrics.page().splitlines()


def test_strings_of_more_dimensions_than_tensorflows_python_can_read_are_refused() -> None:
    log = messages.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = "regress"
    tensor = request.inputs["inputs"]
    tensor.dtype, tensor.string_val[:] = 7, [b"a"]
    for _ in range(33):
        tensor.tensor_shape.dim.add(size=1)
    with refusal(Code.INVALID_ARGUMENT, "tensor parsing error: inputs"):
        prediction_service.run_log(Wide(), log, Metrics())
