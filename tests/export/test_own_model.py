"""What a recipe of one's own may get wrong, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.network_file import NetworkFile
from servekit.export.own_model import chosen_output, of_images, own_model, refuse_other_scores, tensors_in_and_out
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Network, Options, Source, Spec

FACTS: dict[str, Any] = {"title": "Cats", "licence": "MIT", "url": "https://example.org"}


def network_file(outputs: tuple[str, ...] = ("scores",), **inputs: Spec) -> NetworkFile:
    return NetworkFile(Network(lambda **_: {}, inputs), outputs, ())


def images(*shape: int | None, dtype: str = "float32") -> NetworkFile:
    return network_file(photo=Spec(dtype, shape))


@pytest.mark.parametrize("shape", [(None, 64, 48, 3), (None, None, None, 3)])
def test_the_models_input_is_called_images_and_gets_the_preprocessings_size(shape: tuple[int | None, ...]) -> None:
    network = of_images(images(*shape), ImagePreprocessing(64, 48))
    assert network.inputs == {"images": Spec("float32", (None, 64, 48, 3))}


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (images(None, 224, 224, 3), r"takes photo: float32 \[batch, 224, 224, 3\]"),
        (images(1, 64, 64, 3), r"takes photo: float32 \[1, 64, 64, 3\]"),
        (images(None, 3, 64, 64), r"takes photo: float32 \[batch, 3, 64, 64\]"),
        (images(None, 64, 64, 3, dtype="uint8"), r"takes photo: uint8"),
        (network_file(a=Spec("float32", (None, 64, 64, 3)), b=Spec("float32", (None,))), "takes a: .*, b: "),
    ],
    ids=["other size", "fixed batch", "channels first", "bytes", "two inputs"],
)
def test_a_model_that_cannot_take_the_images_is_refused(found: NetworkFile, shown: str) -> None:
    with pytest.raises(ExportError, match=shown):
        of_images(found, ImagePreprocessing(64, 64))


def test_of_several_outputs_one_is_named() -> None:
    found = network_file(("scores", "features"))
    assert chosen_output(found, "features") == "features"
    with pytest.raises(ExportError, match="outputs scores, features, say which one"):
        chosen_output(found, None)
    with pytest.raises(ExportError, match="outputs scores, features, not score"):
        chosen_output(found, "score")


def test_labels_without_preprocessing_are_a_mistake_of_the_recipe() -> None:
    with pytest.raises(ValueError, match="labels need preprocessing"):
        own_model(**FACTS, labels=["a"])


def test_source_is_needed_unless_the_recipe_names_one(tmp_path: Path) -> None:
    _, build = own_model(**FACTS)
    with pytest.raises(ExportError, match="--source is missing"):
        build(Options())
    recipe, build = own_model(**FACTS, source=tmp_path / "cats.keras")
    assert "cats.keras" in str(recipe.source)
    with pytest.raises(ExportError, match=r"cats\.keras: there is no such file"):
        build(Options())


def test_numbers_are_invented_for_the_check_and_strings_are_not() -> None:
    model = tensors_in_and_out(network_file(x=Spec("float32", (None, 2)), i=Spec("int32", (None,))), Source("x"))
    assert {name: value.shape for name, value in model.warmup["serving_default"].items()} == {"x": (1, 2), "i": (1,)}
    assert model.warmup["serving_default"]["i"].dtype == np.int32
    assert tensors_in_and_out(network_file(text=Spec("string", (None,))), Source("x")).warmup == {}


@pytest.mark.slow
def test_sizes_that_a_model_leaves_open_are_ones_that_it_answers_for() -> None:
    import tensorflow as tf

    def at_most_100(photo: Any, levels: Any) -> Any:
        rows = tf.shape(photo)[1]
        with tf.control_dependencies([tf.debugging.assert_less(rows, 100)]):
            half = tf.cast(photo[:, 0, 0] + levels, tf.bfloat16)
            return {"mean": 1e5 * tf.reduce_mean(photo, [1, 2, 3]), "half": half}

    specs = {"photo": Spec("float32", (None, None, None, 3)), "levels": Spec("float32", (None, 3))}
    found = NetworkFile(Network(at_most_100, specs), ("mean", "half"), ())
    model = tensors_in_and_out(found, Source("x"))
    asked = model.warmup["serving_default"]
    assert {name: value.shape for name, value in asked.items()} == {"photo": (1, 32, 32, 3), "levels": (1, 3)}

    from servekit.export import graph

    traced = graph.trace(found.network)
    checks = {check.output: check for check in model.checks(lambda inputs: graph.run_once(traced, inputs))}
    assert checks["mean"].limit.max_abs == pytest.approx(1e-4 * checks["mean"].expected.max())  # it grows with them
    assert checks["half"].expected.dtype.name == "float32"


def test_single_numbers_are_not_invented() -> None:
    model = tensors_in_and_out(network_file(x=Spec("float32", (None, 2)), is_training=Spec("bool", ())), Source("x"))
    assert model.warmup == {}


def test_a_fixed_batch_is_compared_and_not_warmed_up() -> None:
    found = network_file(x=Spec("float32", (4, 2)))
    model = tensors_in_and_out(found, Source("x"))
    assert model.warmup == {}
    (check,) = model.checks(lambda _: {"y": np.ones((4, 1), np.float32)})
    assert check.inputs["x"].shape == (4, 2)


PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]], np.float32)
LOGITS = np.array([[4.0, -1.0, 0.5], [0.7, 0.2, 0.1]], np.float32)


def test_a_softmax_that_would_come_twice_or_not_at_all_is_refused() -> None:
    refuse_other_scores(LOGITS, "logits")
    refuse_other_scores(np.log(np.maximum(PROBABILITIES, 1e-30)), "probabilities")
    refuse_other_scores(np.ones((2, 1), np.float32), "logits")  # one class tells nothing
    with pytest.raises(
        ExportError, match=r"gives probabilities .*, not logits: a softmax would be applied twice"
    ) as caught:
        refuse_other_scores(PROBABILITIES, "logits")
    assert caught.value.hint == "in the recipe: gives='probabilities'"
    with pytest.raises(ExportError, match="does not give probabilities: its rows do not add up to 1"):
        refuse_other_scores(np.log(np.maximum(LOGITS, 1e-30)), "probabilities")


@pytest.mark.slow
def test_it_is_refused_before_anything_is_published(tmp_path: Path) -> None:
    from servekit.export import graph
    from tests.export.saved_networks import save_tf2

    save_tf2(tmp_path / "softmax")
    _, build = own_model(**FACTS, preprocessing=ImagePreprocessing(32, 32), labels=list("abcdef"))
    model = build(Options(source=str(tmp_path / "softmax")))
    assert model.network is not None
    traced = graph.trace(model.network)
    for one in (model, model.scaled_jpeg() if model.scaled_jpeg else model):
        with pytest.raises(ExportError, match="a softmax would be applied twice"):
            one.checks(lambda inputs: graph.run_once(traced, inputs))
