"""What the session gives and takes: arrays of every kind, the types it refuses, room after it is closed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.graph_metrics import GraphMetrics
from servekit.server.session import load_saved_model


def test_fetches_come_in_the_order_asked_for_and_may_repeat(models: Path) -> None:
    session = load_saved_model(models / "widths" / "1")
    signature = session.signature_defs["serving_default"]
    ids = {signature.inputs["ids"].name: np.array([[1, 2], [3, 4]], np.int64)}
    sums, widths = (signature.outputs[name].name for name in ("sum", "width"))
    assert [array.tolist() for array in session.run(ids, [widths, sums, widths])] == [[2, 2], [3, 7], [2, 2]]
    session.close()


def test_strings_are_object_arrays_of_bytes_in_and_out(models: Path) -> None:
    session = load_saved_model(models / "strings" / "1")
    signature = session.signature_defs["serving_default"]
    texts = np.array([b"a\0b", "é".encode(), b"\xff"], dtype=object)
    (answer,) = session.run({signature.inputs["text"].name: texts}, [signature.outputs["text"].name])
    assert answer.dtype == object
    assert answer.tolist() == texts.tolist()
    session.close()


def test_wrong_types_are_named_as_tensorflow_names_them(models: Path) -> None:
    session = load_saved_model(models / "half_plus_two" / "2")
    with pytest.raises(StatusError) as caught:
        session.run({"x:0": np.array([b"text"], dtype=object)}, ["y:0"])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == "Expects arg[0] to be float but string is provided"
    session.close()


def test_threads_come_from_the_session_config(models: Path) -> None:
    config = messages.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = load_saved_model(models / "half_plus_two" / "1", session_config=config)
    assert session.run({"x:0": np.array([2], np.float32)}, ["y:0"])[0].tolist() == [3]
    session.close()


def test_both_versions_live_beside_each_other(models: Path) -> None:
    first, second = (load_saved_model(models / "half_plus_two" / version) for version in ("1", "2"))
    x = {"x:0": np.array([2], np.float32)}
    assert [first.run(x, ["y:0"])[0].tolist(), second.run(x, ["y:0"])[0].tolist()] == [[3], [4]]
    first.close()
    assert second.run(x, ["y:0"])[0].tolist() == [4]
    second.close()


def test_requests_that_come_together_wait_for_one_preparation(models: Path) -> None:
    """Sixteen at once on a fresh model prepared its graph sixteen times: seconds each, on all processors."""
    graphs = GraphMetrics()
    loaded = load_saved_model(models / "half_plus_two" / "1", graphs=graphs)
    signature = loaded.signature_defs["serving_default"]
    x, y = signature.inputs["x"].name, signature.outputs["y"].name
    together = threading.Barrier(8)

    def ask(_number: int) -> float:
        together.wait(10)
        return float(loaded.run({x: np.array([4.0], np.float32)}, [y])[0][0])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [4.0] * 8
    loaded.close()
    (builds,) = [family for family in graphs.families() if family.name.endswith("graph_build_calls")]
    assert builds.first_point() == 1
