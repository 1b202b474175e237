"""A model's outputs become one line an image."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from servekit.bulk.lines import Question, answered, decoded, encoded, failed, printable
from servekit.errors import ServekitError
from servekit.model_spec import ModelSpec

QUESTION = Question(ModelSpec("m", version_label="canary"), 2)
ASKED = {"model": "m", "signature": "serving_default", "asked_label": "canary", "asked_version": None}


def test_a_classifiers_outputs_are_named_and_cut_to_the_best() -> None:
    outputs: dict[str, Any] = {
        "labels": np.array([[b"cat", b"dog"], [b"", b""]], object),
        "probabilities": np.array([[0.25, 0.75], [0, 0]], np.float32),
        "class_ids": np.array([[1, 2], [-1, -1]], np.int32),
        "valid": np.array([True, False]),
    }
    good, bad = answered(QUESTION, {"a": 3, "b": 4}, outputs, 1, 5.5)
    assert good == {
        "file": "a",
        "bytes": 3,
        **ASKED,
        "version": 2,
        "valid": True,
        "labels": ["dog"],
        "probabilities": [0.75],
        "class_ids": [2],
        "error": None,
        "milliseconds": 5.5,
    }
    assert (bad["valid"], bad["version"], bad["error"]) == (False, 2, "the model cannot read this image")
    assert "labels" not in bad


def test_other_outputs_keep_their_names_and_bytes_are_text_or_base64() -> None:
    outputs: dict[str, Any] = {"text": np.array([b"t", b"\xff"], object), "size": np.array([[1, 2], [3, 4]])}
    lines = [json.loads(encoded(line)) for line in answered(QUESTION, {"a": 1, "b": 1}, outputs, 5, 1.0)]
    assert [line["outputs"] for line in lines] == [
        {"text": "t", "size": [1, 2]},
        {"text": {"b64": "/w=="}, "size": [3, 4]},
    ]
    assert [line["valid"] for line in lines] == [None, None]


@pytest.mark.parametrize("array", [np.array(1.0), np.zeros((3, 2))], ids=["scalar", "other batch"])
def test_an_output_without_a_row_an_image_is_refused(array: Any) -> None:
    with pytest.raises(ServekitError, match="one row an image is expected"):
        answered(QUESTION, {"a": 1, "b": 1}, {"y": array}, 5, 1.0)


@pytest.mark.parametrize("name", ["plain.jpg", "größe\n.jpg", "not utf-8 \udcff.jpg", '"quoted".jpg'])
def test_a_line_is_one_line_and_reads_back_whatever_the_file_is_called(name: str) -> None:
    line = failed(QUESTION, name, 1, "gone")
    data = encoded(line)
    assert data.count(b"\n") == 1
    assert data.startswith(b'{"file":')
    assert decoded(data) == line
    assert printable(name).isprintable()


@pytest.mark.parametrize("data", [b"", b"[1]\n", b"{}\n", b"\xff\xd8\n", b'{"file": "a"}\n'])
def test_other_files_lines_are_told_apart(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decoded(data)
