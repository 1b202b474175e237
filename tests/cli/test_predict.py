"""`servekit predict` against a real server."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.cli.predict import _Answer, _show
from servekit.client import ModelSpec, Prediction
from servekit.errors import ServekitError
from tests.conftest import ROOT, RunningServer, Serve, free_port

CONFIG = """
model_config_list {
  config {
    name: "half_plus_two" base_path: "%(models)s/half_plus_two" model_platform: "tensorflow"
    model_version_policy { all {} }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  }
  config { name: "strings" base_path: "%(models)s/strings" model_platform: "tensorflow" }
}
"""
JPEG = b"\xff\xd8\xff\xe0 not much of an image \0\xff"

Predict = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return serve(
        "--model_config_file={work}/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        files={"models.config": CONFIG % {"models": models}},
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servekit", "predict", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=["REST", "gRPC"])
def predict(request: pytest.FixtureRequest, server: RunningServer) -> Predict:
    where = {"REST": ["--port", str(server.rest_port), "--rest"], "gRPC": ["--port", str(server.grpc_port), "--grpc"]}
    return lambda *arguments: run(*arguments, "--host", "127.0.0.1", *where[request.param])


def test_instances_in_json_out(predict: Predict, tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text('{"instances": [{"x": 1.0}, {"x": 2.0}]}')
    for instances in ("[1.0, 2.0]", str(file)):
        answer = predict("half_plus_two", "--instances", instances, "--label", "stable", "--json")
        assert answer.returncode == 0, answer.stderr
        document = json.loads(answer.stdout)
        assert document.pop("milliseconds") > 0
        assert document.pop("protocol") in ("REST", "gRPC")
        assert document == {
            "model": "half_plus_two",
            "version": 1,
            "label": "stable",
            "signature": "serving_default",
            "outputs": {"y": [2.5, 3.0]},
        }


def test_named_inputs_and_a_version(predict: Predict) -> None:
    answer = predict("half_plus_two", "--input", "x=[4]", "--version", "2")
    assert answer.stdout.splitlines()[0].startswith("half_plus_two version 2, ")
    assert answer.stdout.splitlines()[1] == "y  float32 [1]  [5.0]"


def test_image_files_go_to_the_string_input_as_bytes(predict: Predict, tmp_path: Path) -> None:
    """The model `strings` answers what it got; a real classifier's table is in test_end_to_end."""
    first, second = tmp_path / "a.jpg", tmp_path / "b.jpg"
    first.write_bytes(JPEG)
    second.write_bytes(JPEG + b"2")
    answer = predict("strings", str(first), str(second), "--json")
    assert answer.returncode == 0, answer.stderr
    texts = json.loads(answer.stdout)["outputs"]["text_bytes"]
    assert [base64.b64decode(text["b64"]) for text in texts] == [JPEG, JPEG + b"2"]


def test_an_image_comes_from_standard_input(server: RunningServer) -> None:
    command = [sys.executable, "-m", "servekit", "predict", "strings", "-", "--json", "--url", server.rest]
    answer = subprocess.run(command, cwd=ROOT, input=JPEG, capture_output=True, timeout=60, check=True)
    (text,) = json.loads(answer.stdout)["outputs"]["text_bytes"]
    assert base64.b64decode(text["b64"]) == JPEG
    empty = subprocess.run(command, cwd=ROOT, input=b"", capture_output=True, timeout=60, check=False)
    assert empty.returncode == 2
    assert empty.stderr.startswith(b"error: standard input: empty; JPEG, PNG or WebP is expected")
    twice = run("strings", "-", "-", "--url", server.rest)
    assert twice.returncode == 2
    assert "- is one image; it can be given once" in twice.stderr


def test_outputs_can_be_chosen(predict: Predict, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(JPEG)
    answer = predict("strings", str(image), "--output-filter", "text_bytes", "--json")
    assert list(json.loads(answer.stdout)["outputs"]) == ["text_bytes"]
    wrong = predict("strings", str(image), "--output-filter", "texts")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: strings has no output texts; it has text, text_bytes")


def test_a_bytes_output_is_written_to_a_file_or_several_into_a_folder(predict: Predict, tmp_path: Path) -> None:
    image, target = tmp_path / "a.jpg", tmp_path / "out.jpg"
    image.write_bytes(JPEG)
    assert predict("strings", str(image), "--output", str(target)).returncode == 0
    assert target.read_bytes() == JPEG
    refused = predict("strings", str(image), str(image), "--output", str(target))
    assert refused.returncode == 1
    assert "2 results need a folder that exists" in refused.stderr
    folder = tmp_path / "out"
    folder.mkdir()
    assert predict("strings", str(image), str(image), "--output", str(folder)).returncode == 0
    assert [path.name for path in sorted(folder.iterdir())] == ["text_bytes-1.jpeg", "text_bytes-2.jpeg"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope", "--instances", "[1.0]"], "nope is not served: "),
        (["half_plus_two", "--instances", "[1.0]", "--version", "7"], "half_plus_two version 7 is not served: "),
        (["half_plus_two", "--instances", "[1.0]", "--label", "x"], "Unrecognized servable version label: x"),
        (["half_plus_two", "--input", "x=[1]", "--signature", "nope"], "nope"),
    ],
    ids=["model", "version", "label", "signature"],
)
def test_what_the_server_does_not_have_is_one_clear_error(predict: Predict, arguments: list[str], error: str) -> None:
    answer = predict(*arguments)
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert error in answer.stderr.splitlines()[0]
    assert answer.stderr.splitlines()[1] == "hint: models, versions and labels: servekit status"
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["LICENSE"], "LICENSE: no image; JPEG, PNG or WebP is expected"),
        (["missing.jpg"], "missing.jpg: No such file or directory"),
        ([], "give images, or --instances, or --input"),
        (["--instances", "[1]", "--input", "x=[1]"], "give images, or --instances, or --input"),
        (["--instances", "[1]", "--label", "a", "--version", "1"], "--label or --version"),
    ],
)
def test_a_mistake_in_the_command_is_found_before_anything_is_sent(arguments: list[str], error: str) -> None:
    answer = run("half_plus_two", *arguments)
    assert answer.returncode == 2
    assert error in answer.stderr
    assert "Traceback" not in answer.stderr


def test_images_to_a_tensor_model_are_refused_with_a_working_example(predict: Predict, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(JPEG)
    answer = predict("half_plus_two", str(image))
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        "error: half_plus_two takes x (DT_FLOAT [-1]), not image files",
        "hint: servekit predict half_plus_two --instances '[1.0, 2.0]'",
    ]


def test_an_image_that_the_model_cannot_read_is_named_and_the_others_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs: dict[str, Any] = {
        "labels": np.array([[b"tabby", b"lynx"], [b"", b""]], object),
        "probabilities": np.array([[0.75, 0.25], [0, 0]], np.float32),
        "class_ids": np.array([[281, 287], [-1, -1]], np.int32),
        "valid": np.array([True, False]),
    }
    answer = _Answer(
        spec=ModelSpec("imagenet", version_label="canary"),
        version=2,
        protocol="gRPC",
        milliseconds=12.3,
        files=["cat.jpg", "broken.jpg"],
    )
    for as_json in (False, True):
        with pytest.raises(ServekitError, match=r"^broken\.jpg: the model cannot read this image$") as error:
            _show(answer, Prediction(outputs, 2), 1, as_json=as_json, output=None)
        assert error.value.exit_code == 1
        shown = capsys.readouterr().out
        if as_json:
            cat, broken = json.loads(shown)["predictions"]
            assert cat["classes"] == [{"label": "tabby", "probability": 0.75, "class_id": 281}]
            assert (cat["valid"], broken["valid"]) == (True, False)
        else:
            assert shown.splitlines()[0] == "imagenet version 2 (canary), gRPC, 12 ms"
            assert "tabby" in shown
            assert "lynx" not in shown


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_is_down_is_said_with_what_to_do(protocol: str) -> None:
    url = f"{protocol}://127.0.0.1:{free_port()}"
    answer = run("half_plus_two", "--instances", "[1]", "--url", url)
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        f"error: no model server answers at {url}: connection refused",
        "hint: start one: servekit up",
    ]


def test_url_excludes_host_port_and_the_other_protocol(server: RunningServer) -> None:
    for extra in (["--port", "1"], ["--grpc"]):
        answer = run("half_plus_two", "--instances", "[1]", "--url", server.rest, *extra)
        assert answer.returncode == 2
        assert "--url" in answer.stderr


@pytest.mark.parametrize("protocol", ["--rest", "--grpc"])
@pytest.mark.slow
def test_a_prediction_costs_under_a_second_of_cpu_and_no_tensorflow(server: RunningServer, protocol: str) -> None:
    port = server.rest_port if protocol == "--rest" else server.grpc_port
    program = f"""
import sys, time
sys.argv = ["servekit", "predict", "half_plus_two", "--instances", "[1]", "--host", "127.0.0.1",
            "--port", "{port}", "{protocol}"]
from servekit.cli.main import main
main()
"""
    check = (
        "import atexit, sys, time; atexit.register(lambda: print(time.process_time(), 'tensorflow' in sys.modules))\n"
    )
    answers = [
        subprocess.run([sys.executable, "-c", check + program], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    costs: list[Any] = [answer.stdout.splitlines()[-1].split() for answer in answers]
    assert min(float(seconds) for seconds, _ in costs) < 1.0
    assert {imported for _, imported in costs} == {"False"}
