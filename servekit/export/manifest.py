"""`manifest.json` beside the SavedModel: what this version is, from what it was made, and how it was proven."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from servekit import __version__
from servekit.export.fresh import Loaded
from servekit.export.packages import versions
from servekit.export.parity import Parity
from servekit.export.recipe import Source
from servekit.export.recipes import Found
from servekit.export.saved_model import MetaGraph

FILE = "manifest.json"
_TOOLS = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow", "protobuf")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path to size and hash of every file but the manifest."""
    return {
        str(path.relative_to(folder)): {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }


def compose(
    *,
    model: str,
    version: int,
    variant: str,
    found: Found,
    source: Source,
    graph: Mapping[str, Any],
    meta_graphs: Sequence[MetaGraph],
    parity: Sequence[Parity],
    loaded: Loaded,
    batch_sizes: Sequence[int],
    without_warmup: Mapping[str, Sequence[int]],
    features: Mapping[str, Sequence[str]],
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """A document of plain values. Differences that are no numbers are null."""
    return {
        "manifest_version": 1,
        "model": model,
        "version": version,
        "variant": variant,
        "title": found.recipe.title,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "servekit": __version__,
        "recipe": {"file": f"export/{found.path.name}", "sha256": sha256(found.path)},
        "weights": {
            "name": source.name,
            "licence": source.licence or found.recipe.licence,
            "url": found.recipe.url,
            "packages": versions(*source.packages),
            "files": [{"name": p.name, "size_bytes": p.stat().st_size, "sha256": sha256(p)} for p in source.files],
        },
        "packages": {"python": platform.python_version(), **versions(*_TOOLS)},
        "graph": dict(graph),
        "signatures": {
            name: {
                "method_name": facts.method_name,
                "inputs": {alias: _tensor(tensor) for alias, tensor in facts.inputs.items()},
                "outputs": {alias: _tensor(tensor) for alias, tensor in facts.outputs.items()},
                "features": list(features.get(name, ())),
            }
            for meta_graph in meta_graphs
            for name, facts in meta_graph.signatures.items()
        },
        "parity": [asdict(result) for result in parity],
        "warmup": {
            "records": len(loaded.kept),
            "batch_sizes": list(batch_sizes),
            "seconds": round(loaded.warmup_s, 3),
            "left_out": {name: list(sizes) for name, sizes in without_warmup.items()},
            "load_seconds": round(loaded.load_s, 3),
        },
        "files": dict(files),
        "size_bytes": sum(facts["size_bytes"] for facts in files.values()),
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": None if tensor.shape is None else list(tensor.shape)}


def write(folder: Path, document: Mapping[str, Any]) -> None:
    (folder / FILE).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a version, None where there is none or it is no manifest of ours."""
    try:
        document = orjson.loads((folder / FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return document if isinstance(document, dict) and "manifest_version" in document else None
