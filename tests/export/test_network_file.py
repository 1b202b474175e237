"""Saved networks of every kind, read and compared with what their own framework answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export import network_file
from servekit.export.network_file import NetworkFile
from tests.export.saved_networks import save_keras, save_tf1, save_tf2, tf1_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside Keras, with NumPy 2
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


def answers(found: NetworkFile, **inputs: Any) -> dict[str, Any]:
    from servekit.export import graph

    return graph.run_once(graph.trace(found.network), inputs)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_keras_file_answers_as_keras_does(tmp_path: Path, name: str) -> None:
    expected = save_keras(tmp_path / name)(IMAGES, training=False)
    found = network_file.read(tmp_path / name)
    assert list(found.network.inputs) == ["photo"]
    assert found.outputs == ["scores"]
    np.testing.assert_allclose(answers(found, photo=IMAGES)["scores"], expected, atol=1e-5)


def test_a_keras_model_with_named_inputs_and_outputs_keeps_the_names(tmp_path: Path) -> None:
    import keras

    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    outputs = {"sum": keras.layers.Dense(1)(joined), "both": joined}
    model = keras.Model({"left": left, "right": right}, outputs)
    model.save(tmp_path / "two.keras")
    found = network_file.read(tmp_path / "two.keras")
    assert list(found.network.inputs) == ["left", "right"]
    assert sorted(found.outputs) == ["both", "sum"]
    given = {"left": np.ones((2, 3), np.float32), "right": np.zeros((2, 3), np.float32)}
    assert answers(found, **given)["both"].tolist() == [[1, 1, 1, 0, 0, 0]] * 2


def test_a_tf2_saved_model_answers_as_its_signature_does(tmp_path: Path) -> None:
    expected = save_tf2(tmp_path / "tf2")(IMAGES)
    found = network_file.read(tmp_path / "tf2")
    assert {name: spec.shape for name, spec in found.network.inputs.items()} == {"photo": (None, 32, 32, 3)}
    np.testing.assert_allclose(answers(found, photo=IMAGES)["probabilities"], expected, atol=1e-6)
    assert found.files[0].name == "saved_model.pb"


def test_rows_that_are_looked_up_inside_functions_become_those_of_a_constant(tmp_path: Path) -> None:
    """As tf.keras's Embedding saves them."""
    import tensorflow as tf

    module = tf.Module()
    module.table = tf.Variable(np.arange(20, dtype=np.float32).reshape(10, 2))
    ids = tf.TensorSpec([None, 3], tf.int32, name="ids")
    serve = tf.function(lambda ids: {"rows": module.table.sparse_read(ids)}, input_signature=[ids])
    tf.saved_model.save(module, str(tmp_path / "lookup"), signatures={"serving_default": serve})
    found = network_file.read(tmp_path / "lookup")
    asked = np.array([[0, 9, 4]], np.int32)
    assert answers(found, ids=asked)["rows"].tolist() == [[[0, 1], [18, 19], [8, 9]]]


def test_a_tf1_saved_model_answers_with_the_signature_and_tags_named(tmp_path: Path) -> None:
    save_tf1(tmp_path / "tf1")
    found = network_file.read(tmp_path / "tf1", signature="predict_images")
    np.testing.assert_allclose(answers(found, images=IMAGES)["scores"], tf1_answers(IMAGES), atol=1e-5)
    found = network_file.read(tmp_path / "tf1", signature="first_score", tags=["serve", "gpu"])
    np.testing.assert_allclose(answers(found, images=IMAGES)["score"], tf1_answers(IMAGES)[:, 0], atol=1e-5)


def test_what_a_saved_model_lacks_is_said_with_what_it_has(tmp_path: Path) -> None:
    save_tf1(tmp_path / "tf1")
    with pytest.raises(ExportError, match="tf1: no signature nope; it has predict_images") as caught:
        network_file.read(tmp_path / "tf1", signature="nope")
    assert caught.value.hint == "name one in the recipe: signature='NAME'"
    with pytest.raises(ExportError, match="tf1: no meta graph with the tags train; it has serve; "):
        network_file.read(tmp_path / "tf1", tags=["train"])


def test_a_lookup_table_cannot_be_wrapped(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        keys = tf.compat.v1.placeholder(tf.string, [None], name="keys")
        initializer = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64))
        values = tf.lookup.StaticHashTable(initializer, -1).lookup(keys)
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "table"))
        info = tf.compat.v1.saved_model.build_tensor_info
        signature = tf.compat.v1.saved_model.build_signature_def({"keys": info(keys)}, {"values": info(values)})
        init = tf.compat.v1.tables_initializer()
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=init)
        builder.save()
    with pytest.raises(ExportError, match=r"table: it keeps state outside its weights \(HashTableV2") as caught:
        network_file.read(tmp_path / "table")
    assert caught.value.hint is not None
    assert "serve it as it is" in caught.value.hint


def test_nor_can_that_of_a_keras_layer() -> None:
    import keras

    from servekit.export import graph

    text = keras.Input((1,), dtype="string", name="text")
    model = keras.Model(text, keras.layers.StringLookup(vocabulary=["a", "b"])(text))
    with pytest.raises(ExportError, match="keeps state outside its weights, such as a lookup table") as caught:
        graph.trace(network_file.keras_network(model, []).network)
    assert caught.value.hint == "serve it as it is: model.export('models/NAME/VERSION')"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.keras", None, "there is no such file or folder"),
        ("notes.txt", b"hello", "neither a Keras model"),
        ("broken.keras", b"hello", r"broken\.keras: not a \.keras file \(a zip archive\), or cut off"),
        ("broken.h5", b"hello", r"broken\.h5: not an HDF5 file, or cut off"),
        ("empty.keras", b"", "or cut off"),
        ("only.weights.h5", b"hello", "weights alone"),
    ],
)
def test_a_file_that_is_no_model_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=reason) as caught:
        network_file.read(tmp_path / name)
    assert "\n" not in caught.value.message


def test_a_folder_without_a_saved_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{tmp_path.name}: no SavedModel in this folder") as caught:
        network_file.read(tmp_path)
    assert caught.value.hint is None
    (tmp_path / "my cats.keras").write_bytes(b"hello")
    with pytest.raises(ExportError) as caught:
        network_file.read(tmp_path)
    assert caught.value.hint == f"is '{tmp_path}/my cats.keras' meant?"
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ExportError) as caught:
        network_file.read(tmp_path)
    assert caught.value.hint == f"is {tmp_path}/12 meant?"


def test_layers_that_are_not_keras_s_are_named(tmp_path: Path) -> None:
    import keras

    class Twice(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * x

    entry = keras.Input((4,))
    keras.Model(entry, Twice()(entry)).save(tmp_path / "own.keras")
    with pytest.raises(ExportError, match=r"own\.keras: .*a layer that is not Keras's, Twice") as caught:
        network_file.read(tmp_path / "own.keras")
    assert "a recipe that imports them" in str(caught.value.hint)


def test_what_keras_3_cannot_read_of_keras_2_has_another_way(tmp_path: Path) -> None:
    import h5py  # type: ignore[import-untyped]
    import keras

    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3)]).save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "a") as file:  # as Keras 2 writes this layer
        file.attrs["keras_version"] = "2.15.0"
        config = file.attrs["model_config"]
        file.attrs["model_config"] = config.replace('"depth_multiplier": 1', '"groups": 1, "depth_multiplier": 1')
        assert file.attrs["model_config"] != config
    with pytest.raises(ExportError, match=r"old\.h5: Keras cannot load it: .*DepthwiseConv2D") as caught:
        network_file.read(tmp_path / "old.h5")
    assert str(caught.value.hint).startswith(
        "it was written by Keras 2.15.0; there, model.save('cats', save_format='tf')"
    )


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    import keras

    entry = keras.Input((4,))
    keras.Model(entry, keras.layers.Lambda(lambda x: 2 * x)(entry)).save(tmp_path / "lambda.keras")
    with pytest.raises(ExportError, match="it has a Lambda layer, Python code in a file, which is not run"):
        network_file.read(tmp_path / "lambda.keras")


def test_python_inside_a_graph_is_not_to_be_served_at_all() -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.py_function(lambda x: x, [tf.constant(1.0)], tf.float32)
    with pytest.raises(ExportError, match=r"mine: it calls Python \(EagerPyFunc: .*, which no server has") as caught:
        network_file.refuse_state("mine", graph.as_graph_def())
    assert caught.value.hint == "write that part in TensorFlow's operations"
