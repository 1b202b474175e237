"""Other people's models exported with our recipes, in one process: one import of TensorFlow for all of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.export.pipeline import Order, export
from servekit.paths import Bundle
from tests.export.bundles import ROOT, new_bundle
from tests.export.saved_networks import save_keras, save_tf1, save_tf2

FEATURES = """
from servekit.export.own_model import own_model
from servekit.export.preprocessing import ImagePreprocessing

RECIPE, build = own_model(title="Features", licence="MIT", url="", preprocessing=ImagePreprocessing(32, 32))
"""


def documented_recipes() -> list[str]:
    """The Python blocks of docs/exporting.md, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "exporting.md").read_text(), re.DOTALL)


@contextlib.contextmanager
def _silent(_: str) -> Iterator[None]:
    yield


def run(
    bundle: Bundle,
    recipe: str,
    name: str,
    source: Path | str | None = None,
    say: Callable[[str], None] = lambda _: None,
    **more: Any,
) -> dict[str, Any]:
    """The manifest of version 1 of `name`."""
    order = Order(recipe=recipe, version=1, model=name, source=None if source is None else str(source), **more)
    return export(bundle, order, _silent, say).manifest


def build(root: Path) -> tuple[Bundle, dict[str, dict[str, Any]]]:
    """Manifests by model name.

    cats is a Keras classifier, features TF2 (image bytes to tensors), scores TF1 as it is, resnet a small stand-in with
    its inputs and classes, vit the small one of the recorded reference.
    """
    bundle = new_bundle(root)
    (bundle.recipes / "cats.py").write_text(documented_recipes()[0])
    (bundle.recipes / "features.py").write_text(FEATURES)
    (bundle.recipes / "weights").mkdir()
    save_keras(bundle.recipes / "weights" / "cats.keras", size=160, classes=2)
    save_tf2(root / "tf2")
    save_tf1(root / "tf1")
    save_keras(root / "resnet.keras", size=224, classes=1001, strides=56)
    with pytest.MonkeyPatch.context() as patch:  # as one of a real ResNet's size
        patch.setattr("servekit.export.graph.FREEZE_LIMIT_BYTES", 100_000)
        resnet = run(bundle, "resnet", "resnet", root / "resnet.keras")
        patch.chdir(root / "tf1")
        scores = run(bundle, "saved_model", "scores", ".")
    manifests = {
        "cats": run(bundle, "cats", "cats"),
        "features": run(bundle, "features", "features", root / "tf2"),
        "scores": scores,
        "resnet": resnet,
        "vit": run(bundle, "vit", "vit", ROOT / "tests" / "export" / "vit" / "small"),
    }
    return bundle, manifests
