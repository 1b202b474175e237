"""What a SavedModel says about itself, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import message, text_format

from servekit.errors import ExportError
from servekit.protos import messages
from servekit.tensors import DATA_TYPES

_INTERNAL = "__saved_model_"


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    """`float32`, `string`, ... ; `DT_<NAME>` for types that no request can carry."""
    shape: tuple[int, ...] | None
    """-1 is any size; None is any rank."""
    name: str
    """In the graph: `serving_default_image_bytes:0`."""


@dataclass(frozen=True, slots=True)
class SignatureFacts:
    method_name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    @property
    def method(self) -> str:
        """`predict`, `classify`, `regress`, or "" for one that the server cannot call."""
        kind = self.method_name.rpartition("tensorflow/serving/")[2]
        return kind if kind in ("predict", "classify", "regress") else ""


@dataclass(frozen=True, slots=True)
class MetaGraph:
    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: Mapping[str, SignatureFacts]


def read_meta_graphs(folder: Path) -> list[MetaGraph]:
    """Every meta graph of `saved_model.pb` or `saved_model.pbtxt`. Raises ExportError."""
    return [_meta_graph(meta) for meta in parse_saved_model(folder).meta_graphs]


def parse_saved_model(folder: Path) -> Any:
    """The SavedModel message, with at least one graph. Raises ExportError."""
    proto = messages.SavedModel()
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    path = binary if binary.is_file() else text
    shown = f"{_shown(folder)}/{path.name}"
    try:
        if path == binary:
            proto.ParseFromString(path.read_bytes())
        else:
            text_format.Parse(path.read_text(encoding="utf-8"), proto)
    except FileNotFoundError:
        raise ExportError(f"{_shown(folder)}: no SavedModel (neither saved_model.pb nor saved_model.pbtxt)") from None
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(f"{shown}: not a SavedModel: {error}") from error
    except OSError as error:
        raise ExportError(f"{shown}: cannot be read: {error.strerror}") from error
    if not proto.meta_graphs:  # an empty file is a valid message
        raise ExportError(f"{shown}: not a SavedModel: it has no graph")
    return proto


def _meta_graph(meta: Any) -> MetaGraph:
    signatures = {
        name: SignatureFacts(
            definition.method_name,
            {alias: _tensor(info) for alias, info in sorted(definition.inputs.items())},
            {alias: _tensor(info) for alias, info in sorted(definition.outputs.items())},
        )
        for name, definition in sorted(meta.signature_def.items())
        if not name.startswith(_INTERNAL)
    }
    return MetaGraph(tuple(meta.meta_info_def.tags), meta.meta_info_def.tensorflow_version, signatures)


def _tensor(info: Any) -> Tensor:
    known = DATA_TYPES.get(info.dtype)
    if known is None:
        dtype = messages.TensorInfo.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number[info.dtype].name
    else:
        dtype = "string" if known.name == "STRING" else known.numpy_name
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return Tensor(dtype, shape, info.name)


def _shown(folder: Path) -> str:
    """`models/NAME/VERSION`: enough to find it, nothing of where the bundle lies."""
    return "/".join(folder.parts[-3:])
