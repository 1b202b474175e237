"""A network that somebody has saved: a Keras 3 model, a Keras `.h5` model or a SavedModel folder, of TF1 or TF2.

A SavedModel is read as TF Serving reads it (TF1 loader, tags, signature) and its variables become constants, so that
whatever wrote it, what is exported is what the server would have run.
"""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.errors import ExportError
from servekit.export.keras_settings import standard_layout
from servekit.export.recipe import Method, Network, Spec
from servekit.export.saved_model import MetaGraph, SignatureFacts, Tensor, read_meta_graphs
from servekit.model_spec import DEFAULT_SIGNATURE

_STATE = re.compile(r"Hash(Table|tableV2)|HashTable|Iterator|Queue|VarHandleOp|VariableV?2?$|Barrier|PyFunc")
"""Operations whose state or code lies outside a graph of constants."""
_OWN_LAYER = re.compile(r"Could not locate \w+ '([^']+)'")
DEFAULT_TAGS = ("serve",)


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """`network.function` returns a dict of tensors, whatever the file's own model returns."""

    network: Network
    outputs: Sequence[str]
    files: Sequence[Path]
    """What was read, for the manifest."""
    method: Method = "predict"


def read(path: Path, *, signature: str | None = None, tags: Sequence[str] = DEFAULT_TAGS) -> NetworkFile:
    """`signature` and `tags` are for SavedModels: None is `serving_default`, or the only one. Raises ExportError."""
    if path.is_dir():
        _refuse_other_folder(path)
        return _saved_model(path, signature, tags)
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file or folder")
    if path.name.endswith(".weights.h5"):
        raise ExportError(
            f"{path.name}: weights alone, without the model that uses them",
            hint="save the whole model (model.save('NAME.keras')), or write a recipe that builds it and loads them",
        )
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ExportError(
            f"{path.name}: neither a Keras model (.keras, .h5) nor a SavedModel folder (with saved_model.pb)"
        )
    return keras_network(load_keras(path), [path])


def _refuse_other_folder(path: Path) -> None:
    """Raises ExportError for one without a SavedModel, with what is likely to be meant."""
    if any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return
    folders = [file.parent for file in sorted(path.glob("*/saved_model.pb*"))]
    inside = [*folders, *sorted(path.glob("*.keras")), *sorted(path.glob("*.h5"))]
    meant = inside[0] if inside else None
    raise ExportError(
        f"{path.name}: no SavedModel in this folder (neither saved_model.pb nor saved_model.pbtxt)",
        hint=None if meant is None else f"is {shlex.quote(str(meant))} meant?",
    )


def load_keras(path: Path) -> Any:
    """The keras.Model in a `.keras` or `.h5` file. Code in it (Lambda layers) is not run."""
    import keras

    standard_layout()
    _refuse_broken(path)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        text = " ".join(str(error).split())
        own = _OWN_LAYER.search(text)
        if own is not None:
            text = f"it has a layer that is not Keras's, {own[1]}"
        elif "safe_mode" in text:
            text = "it has a Lambda layer, Python code in a file, which is not run"
        version = _keras_version(path)
        raise ExportError(
            f"{path.name}: Keras cannot load it: {text[:300]}",
            hint=f"it was written by Keras {version}; there, model.save('cats', save_format='tf') makes a SavedModel "
            "folder, which is read whatever wrote it"
            if version.startswith("2.")
            else "layers of your own need a recipe that imports them before keras.models.load_model",
        ) from error


def _keras_version(path: Path) -> str:
    """Of the Keras that wrote the file, "" for an unknown one."""
    import h5py  # type: ignore[import-untyped]

    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return ""


def _refuse_broken(path: Path) -> None:
    """Raises ExportError for a file that is not what its name says; of a broken one Keras says that it is not there."""
    import h5py

    is_zip = path.suffix == ".keras"
    if not (zipfile.is_zipfile(path) if is_zip else h5py.is_hdf5(path)):
        kind = "a .keras file (a zip archive)" if is_zip else "an HDF5 file"
        raise ExportError(
            f"{path.name}: not {kind}, or cut off", hint=f"copy it again; ls -l {path.name} shows its size"
        )


def keras_network(model: Any, files: Sequence[Path]) -> NetworkFile:
    """A built keras.Model, in inference mode. Inputs and outputs have the names that Keras knows."""
    if not getattr(model, "inputs", None):
        raise ExportError("the Keras model has no declared inputs; call it once, or start it with keras.Input")
    structure = model.input if isinstance(getattr(model, "input", None), dict) else None
    names = list(structure) if structure else [_graph_name(tensor.name) for tensor in model.inputs]
    ordered = list(structure.values()) if structure else model.inputs
    specs = {name: Spec(str(tensor.dtype), tuple(tensor.shape)) for name, tensor in zip(names, ordered, strict=True)}
    output_names = _output_names(model)

    def function(**inputs: Any) -> Mapping[str, Any]:
        values = [inputs[name] for name in names]
        fed: Any = dict(zip(names, values, strict=True)) if structure else values[0] if len(values) == 1 else values
        returned = model(fed, training=False)
        if isinstance(returned, Mapping):
            return returned
        tensors = returned if isinstance(returned, (list, tuple)) else [returned]
        return dict(zip(output_names, tensors, strict=True))

    return NetworkFile(Network(function, specs), output_names, files)


def _output_names(model: Any) -> list[str]:
    if isinstance(getattr(model, "output", None), dict):
        return list(model.output)
    names = getattr(model, "output_names", None)
    if names and len(set(names)) == len(names) == len(model.outputs):
        return list(names)
    count = len(model.outputs)
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _saved_model(folder: Path, name: str | None, tags: Sequence[str]) -> NetworkFile:
    meta_graph = _meta_graph(folder, tags)
    facts = _signature(folder, meta_graph, name)
    graph = _frozen_graph(folder, meta_graph.tags, [tensor.name for tensor in facts.outputs.values()])
    outputs = {alias: tensor.name for alias, tensor in facts.outputs.items()}
    inputs = {_graph_name(alias): tensor for alias, tensor in facts.inputs.items()}

    def function(**fed: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        mapping = {inputs[alias].name: tensor for alias, tensor in fed.items()}
        tensors = tf.import_graph_def(graph, mapping, list(outputs.values()), name="saved_model")
        return dict(zip(outputs, tensors, strict=True))

    specs = {alias: _spec(alias, tensor) for alias, tensor in inputs.items()}
    files = sorted(path for path in (*folder.glob("saved_model.pb*"), *folder.glob("variables/*")) if path.is_file())
    method: Any = facts.method or "predict"
    return NetworkFile(Network(function, specs), list(outputs), files, method)


def _meta_graph(folder: Path, tags: Sequence[str]) -> MetaGraph:
    meta_graphs = read_meta_graphs(folder)
    for meta_graph in meta_graphs:
        if set(meta_graph.tags) == set(tags):
            return meta_graph
    known = "; ".join(",".join(meta_graph.tags) or "(none)" for meta_graph in meta_graphs)
    raise ExportError(
        f"{folder.name}: no meta graph with the tags {','.join(tags)}; it has {known}",
        hint="in the recipe: tags=('serve', ...)",
    )


def _signature(folder: Path, meta_graph: MetaGraph, name: str | None) -> SignatureFacts:
    known = meta_graph.signatures
    if name is None:
        name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in known or len(known) != 1 else next(iter(known))
    if name not in known:
        raise ExportError(
            f"{folder.name}: no signature {name}; it has {', '.join(known) or 'none'}",
            hint="name one in the recipe: signature='NAME'" if known else None,
        )
    return known[name]


def _frozen_graph(folder: Path, tags: Sequence[str], outputs: Sequence[str]) -> Any:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_from_session_graph as with_constants,
    )

    try:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            tf.compat.v1.saved_model.loader.load(session, list(tags), str(folder))
            nodes = sorted({name.split(":")[0] for name in outputs})
            frozen = with_constants(session, graph.as_graph_def(), nodes)
            if not _is_whole(frozen):
                frozen = with_constants(session, _with_calls_inlined(graph, nodes), nodes)
    except Exception as error:
        text = " ".join(str(error).split())
        raise ExportError(f"{folder.name}: the SavedModel cannot be loaded: {text[:300]}") from error
    refuse_state(folder.name, frozen)
    for node in _computed(frozen):
        node.device = ""  # the server's to choose
        node.attr.pop("_class", None)  # "beside that variable", which is gone
    return frozen


def _is_whole(graph: Any) -> bool:
    """Whether TensorFlow takes a GraphDef. Some operations on variables inside functions become none on constants."""
    import tensorflow as tf

    with tf.Graph().as_default():
        try:
            tf.import_graph_def(graph, name="")
        except ValueError:
            return False
    return True


def _with_calls_inlined(graph: Any, nodes: Sequence[str]) -> Any:
    """A GraphDef in which the variables are outside all functions, for those `nodes` that are asked for."""
    import tensorflow as tf
    from tensorflow.python.grappler import tf_optimizer

    meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    meta_graph.collection_def["train_op"].node_list.value.extend(nodes)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # also in a small one
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def refuse_state(name: str, graph: Any) -> None:
    """Raises ExportError for a GraphDef that is not made of constants and computation alone."""
    state = sorted({node.op for node in _computed(graph) if _STATE.search(node.op)})
    python = [op for op in state if "PyFunc" in op]
    if python:
        raise ExportError(
            f"{name}: it calls Python ({', '.join(python)}: tf.py_function, tf.numpy_function), which no server has",
            hint="write that part in TensorFlow's operations",
        )
    if state:
        raise ExportError(
            f"{name}: it keeps state outside its weights ({', '.join(state)}), which cannot be wrapped",
            hint="serve it as it is: copy the folder to models/NAME/VERSION",
        )


def _computed(graph: Any) -> list[Any]:
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _spec(alias: str, tensor: Tensor) -> Spec:
    if tensor.shape is None:
        raise ExportError(f"input {alias} has no declared rank")
    return Spec(tensor.dtype, tuple(None if size == -1 else size for size in tensor.shape))


def _graph_name(name: str) -> str:
    """Letters, digits and `_`: what a placeholder may be called."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.split(":")[0]).lstrip("_") or "input"
