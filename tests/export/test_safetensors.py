from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.safetensors import load_tensors
from tests.export.bundles import ROOT

FLOAT = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(folder: Path, header: Any, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_tensors_of_every_float_type_are_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "single": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "half": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
        "brain": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
        "scalar": {"dtype": "F64", "shape": [], "data_offsets": [16, 24]},
        "empty": {"dtype": "I64", "shape": [0, 3], "data_offsets": [24, 24]},
    }
    brain = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    data = np.array([1, 2], "<f4").tobytes() + np.array([3, 4], "<f2").tobytes() + brain + np.array(5, "<f8").tobytes()
    tensors = load_tensors(written(tmp_path, header, data))
    assert list(tensors) == ["single", "half", "brain", "scalar", "empty"]
    assert tensors["single"].tolist() == [[1.0], [2.0]]
    assert tensors["half"].tolist() == [3.0, 4.0]
    assert tensors["brain"].tolist() == [1.5, -2.0]
    assert tensors["brain"].dtype == np.float32
    assert tensors["scalar"].item() == 5.0
    assert tensors["empty"].shape == (0, 3)


def test_a_file_of_the_original_library_is_read() -> None:
    tensors = load_tensors(ROOT / "tests" / "export" / "vit" / "small" / "model.safetensors")
    assert tensors["vit.embeddings.cls_token"].shape == (1, 1, 32)
    assert all(np.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"not json", b"", "Expecting value"),
        (b"[1, 2]", b"", "not a safetensors file"),
        ({"a": FLOAT}, bytes(4), "take 8 bytes, 4 are there"),
        ({"a": FLOAT}, bytes(12), "take 8 bytes, 12 are there"),
        ({"a": {**FLOAT, "shape": [3]}}, bytes(8), r"8 bytes for a tensor F32 \[3\]"),
        ({"a": {**FLOAT, "shape": [-2, -1]}}, bytes(8), "8 bytes for a tensor"),
        ({"a": {**FLOAT, "data_offsets": [4, 12]}}, bytes(12), "gap or overlap at byte 4"),
        ({"a": {**FLOAT, "data_offsets": [0, -8]}}, bytes(8), "gap or overlap"),
        ({"a": FLOAT, "b": FLOAT}, bytes(8), "gap or overlap"),
        ({"a": {**FLOAT, "dtype": "F8_E4M3"}}, bytes(8), "F8_E4M3 are not supported"),
        ({"a": {"dtype": "F32"}}, bytes(8), "data_offsets"),
        ({"a": {**FLOAT, "data_offsets": "ab"}}, bytes(8), "not a safetensors file"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, header: Any, data: bytes, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        load_tensors(written(tmp_path, header, data))


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8, b"\xff" * 20])
def test_bytes_that_are_no_safetensors_file_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.safetensors: not a safetensors file"):
        load_tensors(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.safetensors: cannot be read: No such file"):
        load_tensors(tmp_path / "model.safetensors")
