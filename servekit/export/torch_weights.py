"""Reads a torch state_dict (.pth, zip or legacy layout) without torch and without running code from the file.

A pickle can name any function and have it called. This unpickler knows three globals and refuses every other.
Layouts: torch/serialization.py, `_save` and `_legacy_save`.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import ExportError

_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(slots=True)
class _Storage:
    """A run of numbers that several tensors may share; its data come after the pickle."""

    dtype: np.dtype[Any]
    data: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _TensorView:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        """A copy; refuses a view that reaches outside its storage (as_strided would read foreign memory)."""
        data = self.storage.data
        if data is None:
            raise pickle.UnpicklingError("a tensor's storage is missing")
        if min((self.offset, *self.size, *self.stride), default=0) < 0 or len(self.size) != len(self.stride):
            raise pickle.UnpicklingError("a tensor has negative sizes")
        if 0 in self.size:
            return np.zeros(self.size, data.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if last >= data.size:
            raise pickle.UnpicklingError("a tensor reaches past the end of its storage")
        steps = [step * data.itemsize for step in self.stride]
        view: NDArray[Any] = np.lib.stride_tricks.as_strided(data[self.offset :], self.size, steps)
        copy: NDArray[Any] = view.copy()
        return copy


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _TensorView:
    return _TensorView(storage, offset, tuple(size), tuple(stride))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a file of weights does not need")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key = pid[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown kind of object {kind!r}")
        return self._storages.setdefault(str(key), _Storage(dtype))


def load_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Parameter name to array, in the file's order. Raises ExportError for anything but a plain state_dict."""
    storages: dict[str, _Storage] = {}
    try:
        state = _read_zip(path, storages) if zipfile.is_zipfile(path) else _read_legacy(path, storages)
        if not isinstance(state, dict) or not all(isinstance(view, _TensorView) for view in state.values()):
            raise pickle.UnpicklingError("it holds more than named tensors")
        return {str(name): view.array() for name, view in state.items()}
    except OSError as error:
        raise ExportError(f"{path.name}: cannot be read: {error.strerror}") from error
    # A hand-made pickle can make the unpickler raise nearly anything.
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
            struct.error, zipfile.BadZipFile, MemoryError, OverflowError) as error:  # fmt: skip
        raise ExportError(f"{path.name}: not a torch state_dict: {error}") from error


def _read_zip(path: Path, storages: dict[str, _Storage]) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(names) != 1:
            raise pickle.UnpicklingError("no data.pkl in it")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise pickle.UnpicklingError("big-endian numbers")
        state = _Unpickler(io.BytesIO(archive.read(names[0])), storages).load()
        for key, storage in storages.items():
            storage.data = np.frombuffer(archive.read(f"{root}data/{key}"), storage.dtype)
    return state


def _read_legacy(path: Path, storages: dict[str, _Storage]) -> Any:
    with path.open("rb") as file:

        def following() -> Any:
            return _Unpickler(file, {}).load()

        if following() != _LEGACY_MAGIC or following() != _LEGACY_PROTOCOL or not following()["little_endian"]:
            raise pickle.UnpicklingError("not written by torch.save on a little-endian machine")
        state = _Unpickler(file, storages).load()
        for key in following():
            storage = storages[str(key)]
            (count,) = struct.unpack("<q", file.read(8))
            storage.data = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)
    return state
