"""`servekit inspect`: what a published version offers, and how to call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from servekit.cli.address import address
from servekit.cli.output import print_json
from servekit.errors import ExportError
from servekit.export import examples, manifest, publish
from servekit.export.saved_model import MetaGraph, Tensor, read_meta_graphs
from servekit.paths import Bundle, bundle


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL")
@click.option("--version", type=click.IntRange(0, 2**63 - 1), help="Version to look at; the highest one otherwise.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(model: str, version: int | None, as_json: bool) -> None:
    """Signatures of a published version with dtypes and shapes, how it was proven, and calls ready to paste."""
    here = bundle()
    document = describe(here, model, _version(here, model, version))
    if as_json:
        print_json(document)
    else:
        print("\n".join(lines(document)))


def _version(here: Bundle, model: str, wanted: int | None) -> int:
    published = publish.published_versions(here, model)
    if not published:
        known = sorted(path.name for path in here.models.glob("*") if path.is_dir()) if here.models.is_dir() else []
        close = get_close_matches(model, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"servekit export {model} --version 1"
        raise ExportError(f"models/{model}: no version is published", hint=hint)
    if wanted is not None and wanted not in published:
        raise ExportError(f"models/{model}/{wanted}: not published; there is {', '.join(map(str, published))}")
    return published[-1] if wanted is None else wanted


def describe(here: Bundle, model: str, version: int) -> dict[str, Any]:
    """Everything the command shows. Raises ExportError for a folder that holds no SavedModel."""
    folder = _folder(here, model, version)
    meta_graphs = read_meta_graphs(folder)
    facts = manifest.read(folder)
    image = next(iter(sorted(here.samples.glob("*.jpg"))), Path("photo.jpg"))
    target = examples.Target(
        model,
        version,
        str(image.relative_to(here.root)) if image.is_absolute() else str(image),
        rest=address(url=None, host=None, port=None, grpc=False),
        grpc=address(url=None, host=None, port=None, grpc=True).removeprefix("grpc://"),
    )
    return {
        "model": model,
        "version": version,
        "published": publish.published_versions(here, model),
        "path": str(folder.relative_to(here.root)),
        "size_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "meta_graphs": [_meta_graph(meta_graph, target, facts or {}) for meta_graph in meta_graphs],
        "manifest": facts,
    }


def _folder(here: Bundle, model: str, version: int) -> Path:
    """The folder of that number; TF Serving reads `007` as 7 too."""
    for path in (here.models / model).iterdir():
        if path.is_dir() and path.name.isascii() and path.name.isdigit() and int(path.name) == version:
            return path
    raise ExportError(f"models/{model}/{version}: not published")


def _meta_graph(meta_graph: MetaGraph, target: examples.Target, facts: Mapping[str, Any]) -> dict[str, Any]:
    declared = facts.get("signatures", {})
    return {
        "tags": list(meta_graph.tags),
        "tensorflow_version": meta_graph.tensorflow_version,
        "signatures": {
            name: {
                **asdict(signature),
                "method": signature.method,
                "curl": examples.curl(name, signature, target, declared.get(name, {}).get("features", ())),
                "grpcurl": examples.grpcurl(name, signature, target),
                "servekit": examples.predict_command(name, signature, target),
            }
            for name, signature in meta_graph.signatures.items()
        },
    }


def lines(document: dict[str, Any]) -> list[str]:
    facts = document["manifest"]
    title = f", {facts['weights']['name']}" if facts else ""
    out = [f"{document['path']}{title}, {document['size_bytes'] / 1e6:.1f} MB", *_proof(facts)]
    for meta_graph in document["meta_graphs"]:
        out += ["", f"tags {', '.join(meta_graph['tags'])}; written by TensorFlow {meta_graph['tensorflow_version']}"]
        for name, signature in meta_graph["signatures"].items():
            out += ["", f"  {name} ({signature['method_name']})"]
            for kind in ("inputs", "outputs"):
                out += [_tensor_line(kind[:-1], alias, info) for alias, info in signature[kind].items()]
    out += ["", "Calls (from the bundle's folder):"]
    for meta_graph in document["meta_graphs"]:
        for name, signature in meta_graph["signatures"].items():
            for kind, title in (("servekit", "by hand"), ("curl", "REST"), ("grpcurl", "gRPC")):
                if signature[kind]:
                    out += ["", f"# {name}, {title}", signature[kind]]
    return out


def _proof(facts: dict[str, Any] | None) -> list[str]:
    if facts is None:
        return ["no manifest: not published by servekit export"]
    weights = facts["weights"]
    packages = [f"{name} {version}" for name, version in weights["packages"].items()]
    origin = ", ".join(packages or [file["name"] for file in weights["files"]]) or "the recipe itself"
    return [
        f"created {facts['created']}, licence {weights['licence']}, weights from {origin}",
        f"warmup {facts['warmup']['records']} records in {facts['warmup']['seconds']} s{_not_warm(facts['warmup'])}",
        *(f"{'ok ' if result['ok'] else 'BAD'} {_parity_line(result)}" for result in facts["parity"]),
    ]


def _not_warm(warmup: dict[str, Any]) -> str:
    left_out = warmup.get("left_out") or {}
    named = left_out if isinstance(left_out, dict) else {name: ["all"] for name in left_out}  # as it was before
    shown = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in named.items())
    return f", none for batches of {shown}" if shown else ""


def _parity_line(result: dict[str, Any]) -> str:
    parts = [
        f"{name.removesuffix('_abs')} {result[name]:.2g} (limit {limit:g})"
        for name, limit in result["limit"].items()
        if limit is not None and result[name] is not None
    ]
    return f"{result['name']}: {', '.join(parts)} {result['unit']}".rstrip()


def _tensor_line(kind: str, alias: str, info: dict[str, Any]) -> str:
    tensor = Tensor(**info)
    shape = "any shape" if tensor.shape is None else str(list(tensor.shape))
    return f"    {kind:7}{alias:20}{tensor.dtype:9}{shape}"
