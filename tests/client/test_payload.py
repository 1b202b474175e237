from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servekit.client import payload
from servekit.client.answers import Signature, TensorSpec
from servekit.client.payload import PayloadError
from servekit.client.ranking import rankings

IMAGE = Signature("", {"image_bytes": TensorSpec("image_bytes", "DT_STRING", (-1,))}, {})
ONE = Signature("", {"x": TensorSpec("x", "DT_FLOAT", (-1,))}, {})
TWO = Signature("", {"a": TensorSpec("a", "DT_FLOAT", None), "b": TensorSpec("b", "DT_FLOAT", (-1, 2))}, {})


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"\xff\xd8\xff\xe0....", "jpeg"),
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"RIFF1234WEBPVP8 ", "webp"),
        (b"GIF89a", "gif"),
        (b"RIFF1234WAVE", None),
        (b"hello", None),
        (b"", None),
    ],
)
def test_images_are_known_by_their_first_bytes(data: bytes, format: str | None) -> None:
    assert payload.image_format(data) == format


def test_a_file_that_is_no_image_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    with pytest.raises(PayloadError, match=r"notes\.txt: no image; JPEG, PNG or WebP is expected"):
        payload.read_image(notes)
    with pytest.raises(PayloadError, match="missing: No such file"):
        payload.read_image(tmp_path / "missing")
    with pytest.raises(PayloadError, match="Is a directory"):
        payload.read_image(tmp_path)


def test_the_image_input_is_the_only_string_input() -> None:
    assert payload.image_input("m", IMAGE).name == "image_bytes"
    with pytest.raises(PayloadError, match=r"m takes x \(DT_FLOAT \[-1\]\), not image files") as error:
        payload.image_input("m", ONE)
    assert error.value.hint == "servekit predict m --instances '[1.0, 2.0]'"
    with pytest.raises(PayloadError, match="of any shape"):
        payload.image_input("m", TWO)


def test_instances_of_one_input_need_no_names() -> None:
    assert payload.instances("[1.0, 2.0]", ONE) == {"x": [1.0, 2.0]}
    assert payload.instances('{"instances": [1.0]}', ONE) == {"x": [1.0]}
    assert payload.instances('[{"b64": "AAE="}]', IMAGE) == {"image_bytes": [b"\0\1"]}


def test_named_instances_become_columns() -> None:
    assert payload.instances('[{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]', TWO) == {
        "a": [1, 2],
        "b": [[1, 2], [3, 4]],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1.0", "--instances: not JSON"),
        ("7", "a JSON list"),
        ("[]", "at least one instance"),
        ('[{"a": 1}, {"b": 1}]', "same names"),
        ("[1.0]", "objects with the names a, b"),
        ("missing.json", "missing.json: No such file"),
        ('[{"b64": "!"}]', "not base64"),
    ],
)
def test_bad_instances_get_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        payload.instances(text, TWO)


def test_inputs_are_read_from_text_or_files(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_text("[[1, 2]]")
    assert payload.named_inputs(["a=1.5", f"b={file}"]) == {"a": 1.5, "b": [[1, 2]]}
    with pytest.raises(PayloadError, match="given twice"):
        payload.named_inputs(["a=1", "a=2"])
    with pytest.raises(PayloadError, match="NAME=JSON"):
        payload.named_inputs(["a"])


def test_ranking_takes_labels_ids_and_validity_from_the_outputs() -> None:
    outputs = {
        "probabilities": np.array([[0.2, 0.7], [0.6, 0.1]], np.float32),
        "labels": np.array([[b"cat", b"dog"], [b"?", b"?"]], object),
        "class_ids": np.array([[3, 4], [0, 0]], np.int32),
        "valid": np.array([True, False]),
    }
    first, second = rankings(outputs, 1) or []
    assert [(one.label, one.class_id) for one in first.classes] == [("dog", 4)]
    assert first.classes[0].probability == pytest.approx(0.7)
    assert not second.valid


def test_probabilities_alone_are_numbered_by_class() -> None:
    (ranking,) = rankings({"probabilities": np.array([[0.1, 0.8, 0.1]], np.float32)}, 2) or []
    assert [one.class_id for one in ranking.classes] == [1, 0]
    assert rankings({"y": np.zeros((1, 3))}, 2) is None
    assert rankings({"probabilities": np.zeros(3)}, 2) is None
