"""Reads .safetensors files: a JSON header, then the tensors' bytes. Format: github.com/huggingface/safetensors."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.recipe import Array

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def load_tensors(path: Path) -> dict[str, Array]:
    """Tensor name to array. bfloat16 becomes float32. Raises ExportError for a file that breaks the format's rules."""
    try:
        data = np.memmap(path, np.uint8, "r")
        size = int(data[:8].view("<u8")[0])
        if size > min(_MAX_HEADER_BYTES, data.size - 8):
            raise ValueError(f"its header is said to have {size} bytes, the file has {data.size}")
        header = json.loads(data[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        tensors = data[8 + size :]
        _refuse_gaps(header, tensors.size)
        return {name: _array(tensors, **facts) for name, facts in header.items()}
    except OSError as error:
        raise ExportError(f"{path.name}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ExportError(f"{path.name}: not a safetensors file: {error}") from error


def load_shards(index: Path) -> tuple[list[Path], dict[str, Array]]:
    """The files that `model.safetensors.index.json` names, beside it, and all their tensors.

    Raises ExportError for a file that is missing, or holds other tensors than the index says.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("weight_map does not name files beside it")
    except OSError as error:
        raise ExportError(f"{index.name}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{index.name}: not an index of safetensors files: {error!r}") from error
    tensors: dict[str, Array] = {}
    for name in names:
        if not (index.parent / name).is_file():
            raise ExportError(f"{name}: {index.name} names it, but it is not there", hint="download all of its files")
        found = load_tensors(index.parent / name)
        expected = {tensor for tensor, file in places.items() if file == name}
        if wrong := sorted(expected ^ set(found)):
            raise ExportError(f"{name}: not the file that {index.name} means: they differ in {', '.join(wrong[:3])}")
        tensors.update(found)
    return [index, *(index.parent / name for name in names)], tensors


def _refuse_gaps(header: dict[str, Any], size: int) -> None:
    """Tensors follow each other from the first byte to the last, as the format demands: a cut file shows here."""
    end = 0
    for start, stop in sorted(facts["data_offsets"] for facts in header.values()):
        if start != end or stop < start:
            raise ValueError(f"its tensors leave a gap or overlap at byte {start}")
        end = stop
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, {size} are there")


def _array(tensors: Array, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> Array:
    if dtype not in _DTYPES:
        raise ValueError(f"tensors of type {dtype} are not supported")
    start, stop = data_offsets
    kind = np.dtype(_DTYPES[dtype])
    if any(n < 0 for n in shape) or prod(shape) * kind.itemsize != stop - start:
        raise ValueError(f"{stop - start} bytes for a tensor {dtype} {shape}")
    flat = tensors[start:stop].tobytes()
    values = np.frombuffer(flat, kind)
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)
