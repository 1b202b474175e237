"""SavedModels in TensorFlow's TF1 session, loaded and run as TF Serving does; the only module that imports TensorFlow.

Not tf.saved_model.load: a signature is run through its tensor names, so shapes are checked by kernels alone, outputs
can be filtered, and graphs of TF1 and TF2 are the same thing (the model is TensorFlow's cc/saved_model/loader.cc).
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.graph_metrics import GraphMetrics
from servekit.server.wire_format import is_cut_short

DEFAULT_TAGS = ("serve",)
MAX_CALLABLES = 256
"""Distinct pairs of fed and fetched tensors that keep a prepared executor; more are prepared again."""

SMALL_GRAPH_OPS = 256
"""Up to this many operations a graph runs in the thread that asks: handing them to TensorFlow's threads costs more."""

_INIT_OP = "__saved_model_init_op"
_import_lock = threading.Lock()
_imported: _TensorFlow | None = None


@dataclass(frozen=True, slots=True)
class _TensorFlow:
    """What this module needs of it."""

    config_pb2: Any
    saved_model_pb2: Any
    Graph: Any
    Session: Any
    import_graph_def: Any
    OpError: Any


def tensorflow() -> _TensorFlow:
    """Imported by the first caller, which takes seconds; a thread may call it early, others then wait for it.

    Raises StatusError where it is not installed.
    """
    global _imported
    with _import_lock:
        if _imported is None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors of its C++ code
            try:
                from tensorflow.core.protobuf import config_pb2, saved_model_pb2
                from tensorflow.python.client import session
                from tensorflow.python.framework import errors, importer, ops
            except ImportError as error:
                raise StatusError(Code.FAILED_PRECONDITION, f"TensorFlow cannot be imported: {error}") from None
            # Its half a million objects live for ever; left out of later collections, those take 1 ms, not 300.
            gc.collect()
            gc.freeze()
            _imported = _TensorFlow(
                config_pb2, saved_model_pb2, ops.Graph, session.Session, importer.import_graph_def, errors.OpError
            )
        return _imported


def import_only_what_is_needed() -> None:
    """Makes `import tensorflow.x` skip TensorFlow's own `__init__`, for a process that serves and does nothing else.

    That file imports all of Keras and of the public API: two thirds of the import's time and 100 MB. It also looks for
    GPU libraries and plug-ins, so only the CPU wheel is treated like this.
    """
    try:
        importlib.metadata.distribution("tensorflow-cpu")
    except importlib.metadata.PackageNotFoundError:
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is not None and "tensorflow" not in sys.modules:
        package = types.ModuleType("tensorflow")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
        sys.modules["tensorflow"] = package


def load_saved_model(
    path: Path,
    *,
    tags: Sequence[str] = DEFAULT_TAGS,
    session_config: Any = None,
    graphs: GraphMetrics | None = None,
    tell_stage: Callable[[str, float], None] = lambda _stage, _seconds: None,
) -> SavedModelSession:
    """Imports the graph that has exactly these tags, restores its variables, runs its initialiser.

    `session_config` is a messages.ConfigProto or None; `graphs` counts what the session runs; `tell_stage` hears how
    many seconds `restore_graph` (reading included) and `init_graph` took. As upstream, a version without `variables/`
    loads; requests to it fail. Raises StatusError with upstream's texts: NOT_FOUND (no file, no such tags),
    OUT_OF_RANGE (a file that is cut short), DATA_LOSS (not a SavedModel), or what the runtime says while restoring.
    """
    tf = tensorflow()
    graphs = graphs or GraphMetrics()
    began = time.perf_counter()
    saved_model = _read_saved_model(path)
    meta_graph = _meta_graph(saved_model, tags)
    config = tf.config_pb2.ConfigProto.FromString(session_config.SerializeToString()) if session_config else None
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(
                meta_graph.graph_def, name="", producer_op_list=meta_graph.meta_info_def.stripped_op_list
            )
    except (ValueError, tf.OpError) as error:
        raise StatusError(Code.INVALID_ARGUMENT, str(error)) from error
    session = tf.Session(graph=graph, config=config)
    try:
        _restore(session, meta_graph, path, graphs)
        restored = time.perf_counter()
        _initialise(session, meta_graph, path, graphs)
    except tf.OpError as error:
        session.close()
        raise _status(error) from error
    tell_stage("restore_graph", restored - began)
    tell_stage("init_graph", time.perf_counter() - restored)
    graphs.record_read(2 if len(saved_model.meta_graphs) == 1 and meta_graph.HasField("object_graph_def") else 1)
    signature_defs = {
        name: messages.SignatureDef.FromString(definition.SerializeToString())
        for name, definition in meta_graph.signature_def.items()
    }
    return SavedModelSession(session, signature_defs, graphs)


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, checksums checked. Raises StatusError DATA_LOSS where it is damaged."""
    tf = tensorflow()
    from tensorflow.python.lib.io import _pywrap_record_io  # tf.data would start eager execution

    try:
        yield from _pywrap_record_io.RecordIterator(str(path), "")
    except tf.OpError as error:
        raise _status(error) from None


class SavedModelSession:
    """A Servable: signatures, and a session that answers for them."""

    def __init__(self, session: Any, signature_defs: Mapping[str, Any], graphs: GraphMetrics) -> None:
        self.signature_defs = signature_defs
        self._session = session
        self._graphs = graphs
        self._small = len(session.graph.get_operations()) <= SMALL_GRAPH_OPS
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], _Prepared] = {}
        self._preparing = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        try:
            key = tuple(feeds), tuple(fetches)
            prepared = self._callables.get(key) or self._prepared(*key)
            arrays = [feeds[name] for name in prepared.feeds]
            for index, (dtype, array) in enumerate(zip(prepared.dtypes, arrays, strict=True)):
                if array.dtype != dtype:
                    text = f"Expects arg[{index}] to be {_type_name(dtype)} but {_type_name(array.dtype)} is provided"
                    raise StatusError(Code.INVALID_ARGUMENT, text)
            began = time.perf_counter()
            results = prepared.call(*arrays)
            self._graphs.record_run(time.perf_counter() - began, arrays, results)
        except tensorflow().OpError as error:
            raise _status(error) from None
        return [_as_array(results[position]) for position in prepared.positions]

    def close(self) -> None:
        self._callables.clear()
        self._session.close()
        del self._session
        gc.collect()  # a graph is full of cycles; nothing else would free it soon

    def _prepared(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> _Prepared:
        """One thread prepares, the others wait: it takes a large graph seconds, and as many more for each at a time."""
        with self._preparing:
            prepared = self._callables.get((feeds, fetches))
            if prepared is None:
                if len(self._callables) >= MAX_CALLABLES:
                    del self._callables[next(iter(self._callables))]
                prepared = self._callables[feeds, fetches] = self._prepare(feeds, fetches)
            return prepared

    def _prepare(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> _Prepared:
        began = time.perf_counter()
        names, wanted = sorted(feeds), sorted(set(fetches))
        options = tensorflow().config_pb2.CallableOptions(feed=names, fetch=wanted)
        if self._small:
            options.run_options.inter_op_thread_pool = -1
        # Not session.run or make_callable: their Python costs 350 us a call, this 50.
        call = self._session._make_callable_from_options(options)
        self._graphs.record_build(time.perf_counter() - began)
        tensor = self._session.graph.get_tensor_by_name
        dtypes = [np.dtype(tensor(name).dtype.as_numpy_dtype) for name in names]
        return _Prepared(names, dtypes, call, [wanted.index(name) for name in fetches])


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An executor for `feeds`, in this order; each fetch is at its position of what `call` returns."""

    feeds: list[str]
    dtypes: list[np.dtype[Any]]
    call: Callable[..., Sequence[Any]]
    positions: list[int]


def _read_saved_model(path: Path) -> Any:
    from google.protobuf import message, text_format

    saved_model = tensorflow().saved_model_pb2.SavedModel()
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    if binary.is_file():
        try:
            saved_model.ParseFromString(data := binary.read_bytes())
        except message.DecodeError:
            if is_cut_short(data):
                raise StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested") from None
            raise StatusError(Code.DATA_LOSS, f"Can't parse {binary} as binary proto") from None
    elif text.is_file():
        try:
            text_format.Parse(text.read_bytes(), saved_model)
        except (text_format.ParseError, UnicodeDecodeError):
            raise StatusError(Code.DATA_LOSS, f"Can't parse {text} as text proto") from None
    else:
        raise StatusError(
            Code.NOT_FOUND,
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}",
        )
    return saved_model


def _meta_graph(saved_model: Any, tags: Sequence[str]) -> Any:
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    raise StatusError(
        Code.NOT_FOUND,
        # In the order of a std::unordered_set: what was put in last stands first.
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(reversed(dict.fromkeys(tags)))} }}. "
        "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    )


def _restore(session: Any, meta_graph: Any, path: Path, graphs: GraphMetrics) -> None:
    saver, variables = meta_graph.saver_def, path / "variables" / "variables"
    if saver.restore_op_name and variables.with_suffix(".index").is_file():
        checkpoint = {saver.filename_tensor_name: str(variables).encode()}
        _run_once(session, saver.restore_op_name, {**checkpoint, **_assets(meta_graph, path)}, graphs)


def _initialise(session: Any, meta_graph: Any, path: Path, graphs: GraphMetrics) -> None:
    if init_op := _init_op(meta_graph):
        _run_once(session, session.graph.as_graph_element(init_op), _assets(meta_graph, path), graphs)


def _run_once(session: Any, target: Any, feeds: Mapping[str, bytes], graphs: GraphMetrics) -> None:
    began = time.perf_counter()
    session.run(target, feeds)
    graphs.record_run(time.perf_counter() - began, list(map(np.asarray, feeds.values())), [])


def _assets(meta_graph: Any, path: Path) -> dict[str, bytes]:
    """What is to be fed for the assets: their paths."""
    return {
        asset.tensor_info.name: str(path / "assets" / asset.filename).encode() for asset in meta_graph.asset_file_def
    }


def _init_op(meta_graph: Any) -> str:
    """TF2 names it in a signature, TF1 in a collection; an empty text where there is none."""
    name = ""
    if _INIT_OP in meta_graph.signature_def:
        name = meta_graph.signature_def[_INIT_OP].outputs[_INIT_OP].name
    else:
        for collection in ("legacy_init_op", "saved_model_main_op"):
            if collection in meta_graph.collection_def:
                name = meta_graph.collection_def[collection].node_list.value[0]
    return name


def _status(error: Any) -> StatusError:
    return StatusError(Code(error.error_code), error.message)


def _as_array(result: Any) -> NDArray[Any]:
    """TensorFlow answers scalars as numpy scalars, scalar strings as bytes."""
    if isinstance(result, np.ndarray):
        return result
    return np.array(result, dtype=object) if isinstance(result, bytes) else np.asarray(result)


def _type_name(dtype: np.dtype[Any]) -> str:
    """As TensorFlow's DataTypeString."""
    names: dict[str, str] = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}
    return dtype.names[0] if dtype.names else names.get(dtype.name, str(dtype.name))
