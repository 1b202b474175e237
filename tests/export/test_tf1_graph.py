"""Frozen graphs and checkpoints of TF1: what is read, and how each mistake is told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.recipe import strings
from servekit.export.tf1_graph import NoSuchNode, is_tf1_graph, tf1_network
from tests.export import generators
from tests.export.test_pictures import pixels, png

pytestmark = pytest.mark.slow

FILES = {"inputs": {"data": "input_bytes"}, "outputs": {"file": "output_bytes:0"}}


def save_graph(path: Path, build: Any) -> Path:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        build(tf)
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def with_variable(tf: Any) -> None:
    x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
    tf.add(x, tf.compat.v1.get_variable("w", [1], use_resource=False), name="y")


def with_two_inputs(tf: Any) -> None:
    x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
    tf.add(x, tf.compat.v1.placeholder(tf.float32, [], name="keep_prob"), name="y")
    tf.compat.v1.placeholder(tf.string, [], name="unused")


X_TO_Y = {"inputs": {"x": "x"}, "outputs": {"y": "y"}}


def test_a_checkpoint_answers_as_the_graph_frozen_from_it(tmp_path: Path) -> None:
    from servekit.export import graph

    generators.save_frozen_files(tmp_path / "frozen.pb")
    generators.save_checkpoint(tmp_path / "model.ckpt-7")
    answers = []
    for name in ("frozen.pb", "model.ckpt-7.meta", "model.ckpt-7", "model.ckpt-7.index"):
        assert is_tf1_graph(tmp_path / name)
        found = tf1_network(tmp_path / name, **FILES)
        assert found.network.inputs["data"].shape == ()
        data = strings(png(64)).reshape(())
        (file,) = graph.run_once(graph.trace(found.network), {"data": data}).values()
        answers.append(np.asarray(file).item())
    assert len(set(answers)) == 1
    assert np.abs(pixels(answers[0]) - (255 - pixels(png(64)).astype(int))).max() <= 1
    files = [path.name for path in tf1_network(tmp_path / "model.ckpt-7", **FILES).files]
    assert files == ["model.ckpt-7.meta", "model.ckpt-7.data-00000-of-00001"]


def test_a_node_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "graph.pb", with_two_inputs)
    with pytest.raises(NoSuchNode, match=r"graph\.pb: no node image; its inputs are x, keep_prob, unused, its last"):
        tf1_network(path, inputs={"image": "image"}, outputs={"y": "y"})


def test_an_input_that_nobody_feeds_is_told(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "graph.pb", with_two_inputs)
    with pytest.raises(ExportError, match="its outputs also need keep_prob, which nobody feeds"):
        tf1_network(path, **X_TO_Y)


def test_a_graph_that_is_not_frozen_is_told_with_the_way_out(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "graph.pb", with_variable)
    with pytest.raises(ExportError, match="the graph is not frozen: w") as caught:
        tf1_network(path, **X_TO_Y)
    assert caught.value.hint == "give the checkpoint it belongs to: --source PATH/model.ckpt-NUMBER.meta"


def test_a_checkpoint_without_its_graph_is_told(tmp_path: Path) -> None:
    generators.save_checkpoint(tmp_path / "model.ckpt-7")
    (tmp_path / "model.ckpt-7.meta").unlink()
    with pytest.raises(ExportError, match=r"model\.ckpt-7\.meta: not beside the checkpoint"):
        tf1_network(tmp_path / "model.ckpt-7", **FILES)


def test_a_broken_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    generators.save_checkpoint(tmp_path / "model.ckpt-7")
    (tmp_path / "model.ckpt-7.data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(ExportError, match=r"model\.ckpt-7: the checkpoint cannot be restored: ") as caught:
        tf1_network(tmp_path / "model.ckpt-7", **FILES)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"hello", b"\x0a\xff"], ids=["empty", "text", "cut off"])
def test_a_file_that_is_no_graph_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.pb").write_bytes(content)
    with pytest.raises(ExportError, match=r"graph\.pb: no frozen graph"):
        tf1_network(tmp_path / "graph.pb", **X_TO_Y)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("graph.pb", "release.tar.gz"):
        with pytest.raises(ExportError, match=r"[Nn]o such file"):
            tf1_network(tmp_path / name, **X_TO_Y)


def test_an_archive_needs_one_frozen_graph(tmp_path: Path) -> None:
    path = tmp_path / "release.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("a.pb", "b.pb"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ExportError, match=r"one frozen_inference_graph\.pb is expected in it; it has a\.pb, b\.pb"):
        tf1_network(path, **X_TO_Y)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ExportError, match=r"release\.tar\.gz: not a readable archive"):
        tf1_network(path, **X_TO_Y)
