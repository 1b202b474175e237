"""Facts about models/: what lies in each model's folder, read without TensorFlow."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.config.folders import served_versions
from servekit.config.models import Model
from servekit.config.serving import Serving
from servekit.errors import ExportError
from servekit.export.saved_model import parse_saved_model
from servekit.server.source import version_number

LARGEST_GRAPH = 512 * 2**20
"""A larger saved_model.pb takes seconds to read; its graph is not looked at."""

WARMUP = "assets.extra/tf_serving_warmup_requests"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """`ops`: names of all kinds of nodes, those in functions too. `tags`: of each meta graph."""

    tensorflow_version: str
    tags: tuple[tuple[str, ...], ...]
    ops: frozenset[str]

    @property
    def has_variables(self) -> bool:
        return bool(self.ops & {"VarHandleOp", "VariableV2", "Variable"})


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """An entry of a model's folder. `number` as TF Serving reads the name, None where it passes over it."""

    name: str
    number: int | None
    place: str
    """`models/NAME/VERSION`."""
    is_folder: bool = True
    graph: GraphFacts | None = None
    problem: str | None = None
    """Why there is no graph; also None for one that is too large to look at."""
    has_model: bool = True
    """A saved_model.pb, saved_model.pbtxt or model.tflite lies in it."""
    deeper: str | None = None
    """Where a SavedModel lies further down, when there is none here."""
    has_variables_index: bool = True
    missing_shards: tuple[str, ...] = ()
    size_bytes: int = 0
    changed: tuple[str, ...] = ()
    """Files whose size is not the manifest's."""
    warmup_records: int | None = None
    warmup_problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    name: str
    place: str
    model: Model | None
    """As in serving.yaml; None for a folder that it does not name."""
    exists: bool
    versions: tuple[VersionFacts, ...] = ()
    loose_model: str | None = None
    """A saved_model.pb right in the model's folder, where no version is."""

    def served(self) -> tuple[int, ...]:
        """Versions that TF Serving would load, those it will fail on too."""
        numbers = {one.number for one in self.versions if one.number is not None and one.is_folder}
        return served_versions(self.model, {number for number in numbers if number >= 0}) if self.model else ()


def gather(serving: Serving | None, models: Path, only: Collection[str] = ()) -> list[ModelFacts]:
    """Every model that serving.yaml names, and every other folder of models/."""
    configured: Mapping[str, Model] = serving.models if serving else {}
    names = list(configured)
    if models.is_dir():
        used = {Path(model.folder(name, models)) for name, model in configured.items()}
        names += sorted(
            path.name
            for path in models.iterdir()
            if path.is_dir() and not path.name.startswith(".") and path not in used and path.name not in configured
        )
    return [_model(name, configured.get(name), models) for name in names if not only or name in only]


def _model(name: str, model: Model | None, models: Path) -> ModelFacts:
    folder = Path(model.folder(name, models)) if model else models / name
    place = _shown(folder, models)
    if not folder.is_dir():
        return ModelFacts(name, place, model, exists=False)
    try:
        entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return ModelFacts(name, place, model, exists=True)
    loose = next((file for file in ("saved_model.pb", "saved_model.pbtxt") if file in entries), None)
    versions = tuple(
        look_at_version(folder / entry, f"{place}/{entry}")
        for entry in entries
        if (folder / entry).is_dir() or version_number(entry) is not None
    )
    if loose:  # its own variables/ and assets/ are no versions
        versions = tuple(one for one in versions if one.number is not None)
    return ModelFacts(name, place, model, exists=True, versions=versions, loose_model=loose)


def look_at_version(folder: Path, place: str) -> VersionFacts:
    number = version_number(folder.name)
    if not folder.is_dir():
        return VersionFacts(folder.name, number, place, is_folder=False)
    has_model = any((folder / file).is_file() for file in ("saved_model.pb", "saved_model.pbtxt", "model.tflite"))
    graph, problem = _graph(folder) if has_model and not (folder / "model.tflite").is_file() else (None, None)
    records, warmup_problem = _warmup(folder / WARMUP)
    return VersionFacts(
        folder.name,
        number,
        place,
        graph=graph,
        problem=problem,
        has_model=has_model,
        deeper=None if has_model else _deeper(folder, place),
        has_variables_index=(folder / "variables" / "variables.index").is_file(),
        missing_shards=_missing_shards(folder / "variables"),
        size_bytes=_size(folder),
        changed=_changed(folder),
        warmup_records=records,
        warmup_problem=warmup_problem,
    )


def _graph(folder: Path) -> tuple[GraphFacts | None, str | None]:
    binary = folder / "saved_model.pb"
    try:
        if binary.is_file() and binary.stat().st_size > LARGEST_GRAPH:
            return None, None
        proto = parse_saved_model(folder)
    except ExportError as error:
        return None, error.message
    ops: set[str] = set()
    for meta in proto.meta_graphs:
        ops.update(node.op for node in meta.graph_def.node)
        for function in meta.graph_def.library.function:
            ops.update(node.op for node in function.node_def)
    written_by = proto.meta_graphs[0].meta_info_def.tensorflow_version
    return GraphFacts(
        written_by, tuple(tuple(meta.meta_info_def.tags) for meta in proto.meta_graphs), frozenset(ops)
    ), None


def _deeper(folder: Path, place: str) -> str | None:
    found = next(iter(sorted([*folder.glob("*/saved_model.pb"), *folder.glob("*/*/saved_model.pb")])), None)
    return f"{place}/{found.parent.relative_to(folder)}" if found else None


def _missing_shards(variables: Path) -> tuple[str, ...]:
    """`variables.data-00001-of-00003` says how many there are to be."""
    try:
        present = {path.name for path in variables.iterdir()}
    except OSError:
        return ()
    totals = {int(found[1]) for name in present if (found := re.fullmatch(r"variables\.data-\d{5}-of-(\d{5})", name))}
    if not totals:
        return ("variables.data-00000-of-00001",) if "variables.index" in present else ()
    total = max(totals)
    wanted = [f"variables.data-{index:05}-of-{total:05}" for index in range(total)]
    return tuple(name for name in wanted if name not in present)


def _changed(folder: Path) -> tuple[str, ...]:
    """Sizes only: hashing hundreds of megabytes is not for a quick look."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files: Mapping[str, Any] = manifest["files"]
        return tuple(name for name, facts in files.items() if _file_size(folder / name) != facts["size_bytes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _warmup(path: Path) -> tuple[int | None, str | None]:
    """Number of records, by their lengths alone (TFRecord: length, its checksum, data, their checksum)."""
    try:
        size, offset, count = path.stat().st_size, 0, 0
        with path.open("rb") as file:
            while offset < size:
                file.seek(offset)
                head = file.read(12)
                length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
                offset += length + 16
                count += 1
        return (count, None) if offset == size else (None, "is no whole TFRecord file")
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"


def _size(folder: Path) -> int:
    return sum(_file_size(Path(base) / name) or 0 for base, _, files in os.walk(folder) for name in files)


def _file_size(path: Path) -> int | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _shown(folder: Path, models: Path) -> str:
    return f"models/{folder.relative_to(models)}" if folder.is_relative_to(models) else str(folder)


def loaded_bytes(models: Iterable[ModelFacts]) -> int:
    """Bytes on disk of all versions that would be loaded together."""
    return sum(one.size_bytes for model in models for one in model.versions if one.number in model.served())
