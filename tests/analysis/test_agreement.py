"""The same samples asked of both labels of a running server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.analysis import samples
from servekit.analysis.agreement import ask, in_turn
from servekit.analysis.faults import Suspicion
from servekit.analysis.samples import Question, Sample, SampleError
from servekit.analysis.verdict import Agreed, NoData
from servekit.client import Client
from servekit.config.canary import Agreement
from servekit.export.tfrecord import write_records
from servekit.protos import messages
from servekit.tensors import to_proto
from tests.analysis.conftest import BLUE, GREEN, RED, folder_of_pictures, picture, start
from tests.conftest import Serve

Ask = Callable[..., Agreed | NoData]


def bodies(file: Path, *requests: dict[str, Any]) -> Path:
    file.write_text(json.dumps(list(requests)))
    return file


def instances(signature: str, *rows: Any) -> dict[str, Any]:
    return {"signature_name": signature, "instances": list(rows)}


def encoded(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


PLANE = [[0] * 12] * 12 + [[1] * 12] * 12
FILE = encoded(picture(GREEN))


@pytest.mark.parametrize(
    ("body", "kind", "difference"),
    [
        (instances("probabilities", [3.0, 1.0, 0.0]), "best classes", "class 0 0.84, canary class 2 0.71"),
        (instances("logits", [3.0, 1.0, 0.0]), "best classes", "class 0 0.84, canary class 2 0.71"),
        (instances("class_map", PLANE), "masks", "class_map: IoU 0.00"),
        (instances("masks", PLANE), "masks", "mask_bytes: IoU 0.00"),
        (instances("images", FILE), "images", "output_bytes: PSNR "),
        (instances("texts", "abc"), "answers", "text: 1 of 1 values differ"),
        (instances("numbers", [1.0, 2.0, 3.0]), "answers", "y: relative difference 1"),
        ({"signature_name": "numbers", "inputs": {"x": [[1.0, 2.0, 3.0]]}}, "answers", "y: relative difference 1"),
        ({"signature_name": "numbers", "inputs": [[1.0, 2.0, 3.0]]}, "answers", "y: relative difference 1"),
        (instances("picky", [1.0, 2.0, -3.0]), "answers", "canary answers INVALID_ARGUMENT: "),
    ],
    ids=[
        "probabilities", "logits", "class map", "PNG mask", "PNG image", "text", "numbers", "columns", "only input",
        "an error of canary alone",
    ],
)  # fmt: skip
def test_each_kind_of_answer_is_compared(agreed: Ask, tmp_path: Path, body: Any, kind: str, difference: str) -> None:
    file = bodies(tmp_path / "one.json", body)
    alike, worse = agreed("kinds", file), agreed("worse", file)
    assert alike == Agreed(1, 1, kind)
    assert isinstance(worse, Agreed)
    assert (worse.same, worse.asked, worse.left_out) == (0, 1, ())
    assert worse.differing[0].startswith(f"one.json: {difference}")


def test_a_folder_of_images_finds_wrong_preprocessing_behind_good_answers(agreed: Ask, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "samples")
    assert agreed("kinds", folder) == Agreed(3, 3, "best classes")
    worse = agreed("worse", folder)
    assert isinstance(worse, Agreed)
    assert (worse.same, worse.asked) == (1, 3)  # green stays green
    assert worse.differing == (
        "apple.png: red 1.00, canary blue 1.00",
        "sky.png: blue 1.00, canary red 1.00",
    )


def test_what_stable_cannot_answer_is_left_out_and_named(agreed: Ask, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "samples")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "strange.bmp").write_bytes(b"BM" + bytes(60))
    bodies(folder / "more.json", instances("fussy", [-1.0, 0.0, 0.0]), instances("nothing", 1))
    found = agreed("kinds", folder)
    assert isinstance(found, Agreed)
    assert (found.same, found.asked) == (3, 3)
    assert found.left_out[:3] == (
        "broken.jpg: no image; JPEG, PNG, GIF, BMP or WebP is expected",
        "empty.png: an empty file",
        "strange.bmp: stable says that it is not valid",
    )
    assert found.left_out[3].startswith("more.json[0]: stable answers INVALID_ARGUMENT: ")
    assert found.left_out[4:] == ("more.json[1]: stable has no signature nothing",)


def test_only_broken_samples_are_no_data(agreed: Ask, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    found = agreed("kinds", tmp_path)
    assert isinstance(found, Agreed)
    assert found.asked == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone", None, "gone: no such file or folder"),
        ("empty", "", "empty: no images and no .json files in it"),
        ("x.json", "{", "x.json: not JSON: Expecting property name"),
        ("x.json", "[]", "x.json: an empty list"),
        ("x.json", '[{"rows": [1]}]', "x.json: a REST body with instances, inputs or examples is expected"),
        ("x.json", "[1, 2]", "x.json[0]: a REST body"),
    ],
    ids=["gone", "empty folder", "no JSON", "an empty list", "no body", "numbers"],
)
def test_samples_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(SampleError) as raised:
        samples.of_path(path)
    assert message in raised.value.message


def test_classify_and_regress_bodies_are_asked_as_such(agreed: Ask, tmp_path: Path) -> None:
    file = bodies(
        tmp_path / "half.json",
        {"signature_name": "regress", "examples": [{"x": 2.0}]},
        {"signature_name": "classify", "examples": [{}], "context": {"x": 2.0}},
    )
    found = agreed("half", file)
    assert isinstance(found, Agreed)
    assert found.differing == (
        "half.json[0]: outputs: relative difference 0.333",
        "half.json[1]: first 3.00, canary first 4.00",
    )
    assert agreed("half", file, relative_error=0.4) == Agreed(
        1, 2, "answers", ("half.json[1]: first 3.00, canary first 4.00",)
    )


def test_one_declared_output_is_compared_alone(agreed: Ask, tmp_path: Path) -> None:
    file = bodies(tmp_path / "one.json", instances("serving_default", encoded(picture(RED))))
    assert agreed("kinds", file, output="labels") == Agreed(1, 1, "answers")
    assert agreed("kinds", file, output="depth") == NoData(
        "stable's answer has no output depth; it has class_ids, labels, probabilities, valid"
    )


def warmup_of(folder: Path, *logs: Any) -> Path:
    (folder / "assets.extra").mkdir(parents=True)
    write_records(folder / samples.WARMUP, [log.SerializeToString() for log in logs])
    return folder


def prediction(signature: str, **inputs: Any) -> Any:
    log = messages.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    for name, value in inputs.items():
        log.predict_log.request.inputs[name].CopyFrom(to_proto(value))
    return log


def regression(x: float) -> Any:
    log = messages.PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress"
    example = log.regress_log.request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(x)
    return log


def test_warm_up_records_are_samples_without_repetitions(agreed: Ask, tmp_path: Path) -> None:
    row = np.array([[1.0, 2.0, 3.0]], np.float32)
    folder = warmup_of(
        tmp_path / "3",
        prediction("numbers", x=row),
        prediction("numbers", x=np.repeat(row, 8, axis=0)),
        prediction("numbers", x=row + 1),
        prediction("logits", x=row),
    )
    found = samples.find(None, [tmp_path / "2", folder], tmp_path / "none")
    assert [sample.name for sample in found] == [
        "warm-up record 1 (numbers)",
        "warm-up record 3 (numbers)",
        "warm-up record 4 (logits)",
    ]
    assert agreed("kinds", found) == Agreed(3, 3, "answers")


def test_photographs_of_the_bundle_are_added_for_a_model_that_takes_images(agreed: Ask, tmp_path: Path) -> None:
    photographs = folder_of_pictures(tmp_path / "photographs")
    folder = warmup_of(tmp_path / "3", prediction("", image_bytes=[picture(BLUE)]))
    assert agreed("kinds", samples.find(None, [folder], photographs)) == Agreed(4, 4, "best classes")


def test_records_of_examples_are_samples_too(agreed: Ask, tmp_path: Path) -> None:
    found = samples.find(None, [warmup_of(tmp_path / "1", regression(2.0))], tmp_path)
    assert agreed("half", found, relative_error=0.5) == Agreed(1, 1, "answers")


def test_warm_up_records_that_are_none_are_said(tmp_path: Path) -> None:
    folder = warmup_of(tmp_path / "1")
    (folder / samples.WARMUP).write_bytes(b"no records at all")
    with pytest.raises(SampleError, match="no warm-up records: corrupt record header"):
        samples.find(None, [folder], tmp_path)
    with pytest.raises(SampleError, match="name a folder of samples"):
        samples.find(None, [tmp_path / "2"], tmp_path)


def test_samples_are_taken_in_turn() -> None:
    all_ = [Sample(str(number), lambda _: Question("predict")) for number in range(5)]
    assert [one.name for one in in_turn(all_, 3, 0)] == ["0", "1", "2"]
    assert [one.name for one in in_turn(all_, 3, 3)] == ["3", "4", "0"]
    assert len(in_turn(all_, 20, 3)) == 5


def test_labels_that_mean_the_same_version_have_nothing_to_compare(agreed: Ask, tmp_path: Path) -> None:
    assert agreed("same", folder_of_pictures(tmp_path / "samples")) == NoData("both labels mean version 1")


def test_a_label_that_is_not_there_is_no_data(agreed: Ask, tmp_path: Path) -> None:
    found = agreed("nobody", folder_of_pictures(tmp_path / "samples"))
    assert isinstance(found, NoData)
    assert found.why.startswith("the labels do not answer: ")


def test_when_the_time_is_over_the_rest_is_left_out(agreed: Ask, tmp_path: Path) -> None:
    found = agreed("kinds", folder_of_pictures(tmp_path / "samples"), limit_s=0)
    assert found == Agreed(0, 0, "answers", left_out=("3 more: the 0 s for samples were over",))


@pytest.mark.slow
def test_a_server_that_goes_away_in_the_middle_is_no_data(serve: Serve, models: Path, tmp_path: Path) -> None:
    server = start(serve, models)
    file = bodies(tmp_path / "many.json", *(instances("numbers", [float(i), 1.0, 2.0]) for i in range(100)))
    began = time.monotonic()

    def stop(done: int, _: int) -> None:
        if done == 50:
            server.stop()

    with Client(f"grpc://{server.grpc}") as client:
        found = ask(client, "worse", samples.of_path(file), Agreement(), limit_s=30, progress=stop)
    assert isinstance(found, NoData)
    assert found.why.startswith("the model server went away: ")
    assert time.monotonic() - began < 15


def test_labels_that_are_still_on_their_way_are_no_data(client: Client, tmp_path: Path) -> None:
    one = samples.of_path(bodies(tmp_path / "x.json", {"instances": [1.0]}))
    assert isinstance(ask(client, "half", one, Agreement(), limit_s=5.0, versions=(1, 2)), Agreed)
    found = ask(client, "half", one, Agreement(), limit_s=5.0, versions=(1, 3))
    assert found == NoData("on the server stable is version 1 and canary 2; serving.yaml's are on their way")


def test_on_a_server_a_version_that_takes_red_for_blue_is_found(client: Client, tmp_path: Path) -> None:
    pictures = samples.of_path(folder_of_pictures(tmp_path / "samples"))

    def asked(model: str, suspicion: Suspicion) -> Agreed:
        found = ask(client, model, pictures, Agreement(), limit_s=30.0, suspicion=suspicion)
        assert isinstance(found, Agreed)
        return found

    assert asked("kinds", Suspicion(12)).fault == ""
    suspicion = Suspicion(12)
    assert "red and blue exchanged" in asked("worse", suspicion).fault
    assert "red and blue exchanged" in asked("worse", suspicion).fault, "known by now, not asked again"
    assert len(suspicion.seen) == 12


def test_without_time_the_pictures_wait_for_the_next_check(client: Client, tmp_path: Path) -> None:
    pictures, suspicion = samples.of_path(folder_of_pictures(tmp_path / "samples")), Suspicion(12)
    found = ask(client, "worse", pictures, Agreement(), limit_s=0.02, suspicion=suspicion)
    assert isinstance(found, Agreed)
    assert (found.fault, suspicion.seen) == ("", [])
