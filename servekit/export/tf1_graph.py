"""Networks of TF1: a frozen graph (`.pb`, alone or in a `.tar.gz` release), or a checkpoint with its graph (`.meta`).

Neither says what goes in and comes out; the caller names the nodes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from servekit.errors import ExportError
from servekit.export.network_file import NetworkFile, refuse_state
from servekit.export.recipe import Network, Spec

FROZEN_NAME = "frozen_inference_graph.pb"
"""What the releases of TensorFlow's research models call the graph in their archives."""
_VARIABLES = ("VarHandleOp", "Variable", "VariableV2")
Names = Mapping[str, str]


class NoSuchNode(ExportError):
    """The graph has no node of the name that was asked for."""


def is_tf1_graph(path: Path) -> bool:
    """Whether `tf1_network` is for this path, by its name."""
    return path.name.endswith((".pb", ".tar.gz", ".tgz", ".meta", ".index")) or _checkpoint(path) is not None


def tf1_network(path: Path, *, inputs: Names, outputs: Names) -> NetworkFile:
    """`inputs` and `outputs`: the network's own names to the graph's nodes (`ImageTensor`, or `ImageTensor:0`).

    A checkpoint is given by its `.meta` file or its prefix. Raises ExportError with the nodes that are there.
    """
    prefix = _checkpoint(path)
    if prefix is not None:
        graph, files = _frozen_checkpoint(prefix, list(outputs.values()))
    else:
        graph, files = _frozen_file(path), [path]
    return _network(path.name, graph, files, inputs, outputs)


def _network(file: str, graph: Any, files: Sequence[Path], inputs: Names, outputs: Names) -> NetworkFile:
    nodes = {node.name: _copy(node) for node in graph.node}
    wanted_in, wanted_out = ({name: _tensor(node) for name, node in names.items()} for names in (inputs, outputs))
    placeholders = [node.name for node in graph.node if node.op == "Placeholder"]
    for tensor in (*wanted_in.values(), *wanted_out.values()):
        if _node(tensor) not in nodes:
            raise NoSuchNode(
                f"{file}: no node {_node(tensor)}; its inputs are {_listed(placeholders)}, "
                f"its last nodes {_listed([node.name for node in graph.node][-5:])}"
            )
    fed = {_node(tensor) for tensor in wanted_in.values()}
    needed = _needed(nodes, [_node(tensor) for tensor in wanted_out.values()], fed)
    variables = [name for name in needed if nodes[name].op in _VARIABLES]
    if variables:
        raise ExportError(
            f"{file}: the graph is not frozen: {variables[0]} and {len(variables) - 1} more are variables",
            hint="give the checkpoint it belongs to: --source PATH/model.ckpt-NUMBER.meta",
        )
    missing = [name for name in placeholders if name in needed and name not in fed]
    if missing:
        raise ExportError(f"{file}: its outputs also need {_listed(missing)}, which nobody feeds")
    del graph.node[:]
    graph.node.extend(node for name, node in nodes.items() if name in needed | fed)
    refuse_state(file, graph)
    for node in graph.node:
        node.device = ""  # the server's to choose
        node.attr.pop("_class", None)  # "beside that variable", which is gone

    def function(**given: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        mapping = {wanted_in[name]: tensor for name, tensor in given.items()}
        tensors = tf.import_graph_def(graph, mapping, list(wanted_out.values()), name="frozen")
        return dict(zip(wanted_out, tensors, strict=True))

    specs = {name: _spec(nodes[_node(tensor)]) for name, tensor in wanted_in.items()}
    return NetworkFile(Network(function, specs), list(wanted_out), files)


def _frozen_file(path: Path) -> Any:
    """The GraphDef in a `.pb` file or an archive."""
    from tensorflow.core.framework.graph_pb2 import GraphDef

    data = _member(path) if path.name.endswith((".tar.gz", ".tgz", ".tar")) else _read(path)
    try:
        graph = GraphDef.FromString(data)
    except DecodeError:
        graph = GraphDef()
    if not graph.node:
        hint = "for a SavedModel give its folder: --source FOLDER" if path.name == "saved_model.pb" else None
        raise ExportError(f"{path.name}: no frozen graph (GraphDef)", hint=hint)
    return graph


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error


def _member(path: Path) -> bytes:
    """The frozen graph of an archive: the file of that name, else its only `.pb`. Nothing is unpacked."""
    try:
        with tarfile.open(path) as tar:
            files = [member for member in tar if member.isfile() and member.name.endswith(".pb")]
            named = [member for member in files if Path(member.name).name == FROZEN_NAME]
            chosen = named or files
            if len(chosen) != 1:
                shown = _listed([member.name for member in files])
                raise ExportError(f"{path.name}: one {FROZEN_NAME} is expected in it; it has {shown}")
            file = tar.extractfile(chosen[0])
            assert file is not None
            return file.read()
    except FileNotFoundError:
        raise ExportError(f"{path}: there is no such file") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ExportError(f"{path.name}: not a readable archive: {error}") from error


def _checkpoint(path: Path) -> Path | None:
    """Its prefix (`.../model.ckpt-123`), where `path` is one of its files or the prefix itself."""
    prefix = path.with_suffix("") if path.suffix in (".meta", ".index") else path
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def _frozen_checkpoint(prefix: Path, outputs: Sequence[str]) -> tuple[Any, list[Path]]:
    """The graph of `PREFIX.meta` with the checkpoint's values as constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph

    meta = prefix.with_name(f"{prefix.name}.meta")
    if not meta.is_file():
        raise ExportError(
            f"{meta.name}: not beside the checkpoint; without its graph the weights say nothing",
            hint="freeze it with the program that made it, and give the .pb file",
        )
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        try:
            saver = tf.compat.v1.train.import_meta_graph(str(meta), clear_devices=True)
            saver.restore(session, str(prefix))
            definition = graph.as_graph_def()
            present = {node.name for node in definition.node}
            # Where one is missing, _network says so, with what is there.
            nodes = [name for name in map(_node, outputs) if name in present]
            if nodes:
                definition = convert_variables_to_constants_from_session_graph(session, definition, nodes)
        except Exception as error:
            text = " ".join(str(error).split())
            raise ExportError(f"{prefix.name}: the checkpoint cannot be restored: {text[:300]}") from error
    return definition, [meta, *sorted(prefix.parent.glob(f"{prefix.name}.data-*"))]


def _copy(node: Any) -> Any:
    """Of its own: a message inside another one goes with it."""
    own = type(node)()
    own.CopyFrom(node)
    return own


def _needed(nodes: Mapping[str, Any], outputs: Sequence[str], fed: set[str]) -> set[str]:
    """Names of all nodes that the outputs depend on."""
    waiting, found = list(outputs), set[str]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name not in fed:
            waiting.extend(_node(tensor) for tensor in nodes[name].input)
    return found


def _spec(node: Any) -> Spec:
    import tensorflow as tf

    shape = node.attr["shape"].shape
    if shape.unknown_rank:
        raise ExportError(f"input {node.name} has no declared rank")
    sizes = tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    return Spec(tf.dtypes.as_dtype(node.attr["dtype"].type).name, sizes)


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
