"""What a recipe of one's own may get wrong, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.network_file import NetworkFile
from servekit.export.own_model import chosen_output, of_images, own_model, tensors_in_and_out
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
