"""A process that has seen nothing of the export loads the result as TF Serving does, warms it up and answers for it.

Python's own way of loading (tf.saved_model.load) accepts folders that the server refuses. The process starts at once
and imports TensorFlow while the export builds its graph; it ends with the export, however that ends.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export import warmup
from servekit.export.parity import Parity, compare
from servekit.export.recipe import Check
from servekit.model_spec import DEFAULT_SIGNATURE

_LOG_LINES = 20
"""Of the process's own output, shown when it dies."""


@dataclass(frozen=True, slots=True)
class Loaded:
    load_s: float
    warmup_s: float
    """Of the records kept, the first ones paying for graph optimisation as in a server that has just started."""
    kept: tuple[int, ...]
    """Places in the file of the records that are done within the limit, and of those that are kept at any cost."""


class FreshProcess:
    """A context manager around the process; `log` receives what TensorFlow's C++ code writes there."""

    def __init__(self, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._log = log
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, str(log)), daemon=True, name="fresh-check")
        # Ctrl-C goes to every process of the terminal; this one is ended by the export, without a traceback.
        with _ignored_interrupts():
            self._process.start()
        there.close()

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def load(
        self, folder: Path, limit_s: float, tags: Sequence[str] = ("serve",), *, all_of_default: bool = False
    ) -> None:
        """Starts loading and warming up; `loaded` waits for it. `all_of_default`: its records are kept at any cost."""
        self._send(("load", str(folder), tuple(tags), limit_s, all_of_default))

    def loaded(self) -> Loaded:
        answer: Loaded = self._receive()
        return answer

    def compare(self, checks: Sequence[Check]) -> list[Parity]:
        self._send(("compare", list(checks)))
        answer: list[Parity] = self._receive()
        return answer

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> Any:
        try:
            ok, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if not ok:
            raise ExportError(f"the exported model does not work when loaded as TF Serving loads it: {answer}")
        return answer

    def _died(self) -> ExportError:
        self._process.join(5)
        text = self._log.read_text(errors="replace").splitlines() if self._log.is_file() else []
        detail = "\n".join(["", *text[-_LOG_LINES:]])
        return ExportError(f"the checking process ended by itself (exit status {self._process.exitcode}){detail}")


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """For what is started inside: an ignored signal stays ignored in a new program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Any, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    session: Any = None
    signatures: Mapping[str, Any] = {}
    try:
        loader_impl, session_module, ops = _tensorflow_parts()
        while True:
            what, *arguments = connection.recv()
            try:
                if what == "load":
                    session = session_module.Session(graph=ops.Graph())
                    answer: Any
                    signatures, answer = _load(loader_impl, session, *arguments)
                else:
                    answer = _compare_all(session, signatures, arguments[0])
                connection.send((True, answer))
            except Exception as error:  # noqa: BLE001  whatever it is, the export wants to hear it
                connection.send((False, reason(error)))
    except (EOFError, BrokenPipeError):
        os._exit(0)


def reason(error: Exception) -> str:
    """One line. TensorFlow hides it: between a title, and the stack of the process that built the graph."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and line != "Graph execution error:"]
    for place, line in enumerate(lines[:-1]):
        if line.startswith("Node: '"):
            return f"{lines[place + 1]} (node {line.removeprefix('Node: ')})"
    return lines[0] if lines else repr(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Clock:
    """Seconds a task takes on an idle machine: of wall and processor time the smaller one."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self) -> float:
        wall, cpu = time.monotonic(), time.process_time()
        seconds = min(wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        return seconds


def _load(
    loader_impl: Any, session: Any, folder: str, tags: Sequence[str], limit_s: float, all_of_default: bool
) -> tuple[Mapping[str, Any], Loaded]:
    clock = _Clock()
    with session.graph.as_default():
        meta_graph = loader_impl.load(session, list(tags), folder)
    load_s = clock.lap()
    signatures: Mapping[str, Any] = meta_graph.signature_def
    kept: list[int] = []
    too_slow: set[str] = set()  # also with larger batches
    total_s = 0.0
    records = warmup.read(Path(folder)) if (Path(folder) / warmup.FILE).is_file() else ()
    for place, (name, inputs) in enumerate(records):
        if name in too_slow:
            continue
        signature = signatures[name]
        feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
        try:
            session.run(_outputs(signature), feeds)
        except Exception as error:
            raise RuntimeError(f"warmup of {name}: {reason(error)}") from error
        seconds = clock.lap()
        if total_s + seconds > limit_s and not (all_of_default and name == DEFAULT_SIGNATURE):
            too_slow.add(name)
        else:
            kept.append(place)
            total_s += seconds
    return signatures, Loaded(load_s, total_s, tuple(kept))


def _compare_all(session: Any, signatures: Mapping[str, Any], checks: Sequence[Check]) -> list[Parity]:
    """Asks for all outputs of a signature, as warmup did: each new set of tensors costs a second of optimisation."""
    answers: dict[Any, dict[str, Any]] = {}
    results = []
    for check in checks:
        signature, internal = signatures[check.signature], ":" in check.output
        fetches = {check.output: check.output} if internal else _outputs(signature)
        if not internal and check.output not in fetches:
            raise ValueError(
                f"check {check.name!r}: {check.signature} has no output {check.output}; it has {', '.join(fetches)}"
            )
        question = (check.signature, *(id(value) for value in check.inputs.values()), *(fetches if internal else ()))
        if question not in answers:
            feeds = {signature.inputs[alias].name: value for alias, value in check.inputs.items()}
            answers[question] = session.run(fetches, feeds)
        results.append(compare(check, np.asarray(answers[question][check.output])))
    return results


def _outputs(signature: Any) -> dict[str, str]:
    return {alias: signature.outputs[alias].name for alias in sorted(signature.outputs)}


def _tensorflow_parts() -> tuple[Any, Any, Any]:
    """The TF1 loader, Session and Graph without the rest of TensorFlow's Python: 1 s instead of 4.

    `import tensorflow` runs half a million lines that a server's C++ process does not have either. Where a release has
    moved things, the ordinary import is what remains.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    spec = importlib.util.find_spec("tensorflow")
    if spec is not None and spec.submodule_search_locations:
        bare = types.ModuleType("tensorflow")
        bare.__path__ = list(spec.submodule_search_locations)
        bare.__spec__ = spec
        sys.modules["tensorflow"] = bare
        try:
            return _import_parts()
        except (ImportError, AttributeError):
            for name in [name for name in sys.modules if name == "tensorflow" or name.startswith("tensorflow.")]:
                del sys.modules[name]
    return _import_parts()


def _import_parts() -> tuple[Any, Any, Any]:
    from tensorflow.python.client import session
    from tensorflow.python.framework import ops
    from tensorflow.python.saved_model import loader_impl

    return loader_impl, session, ops
