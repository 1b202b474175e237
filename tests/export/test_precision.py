"""Products in bfloat16: quicker where a processor has it, close everywhere, refused by the gate where it does harm."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.pipeline import Order, export
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Limit, Model, Network, Signature, Source, Spec
from servekit.paths import Bundle
from tests.export.bundles import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_RANDOM = np.random.default_rng(0)
FIRST, SECOND = (_RANDOM.normal(0, 0.2, size).astype(np.float32) for size in ((3, 3, 3, 16), (1, 1, 16, 16)))
DEPTHWISE = _RANDOM.normal(0, 0.3, (3, 3, 16, 1)).astype(np.float32)
HEAD = _RANDOM.normal(0, 0.3, (16, 5)).astype(np.float32)
IMAGES = _RANDOM.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def network() -> Network:
    def function(images: Any) -> Any:
        import tensorflow as tf

        x = tf.nn.relu6(tf.nn.bias_add(tf.nn.conv2d(images, FIRST, 2, "SAME"), np.ones(16, np.float32)))
        x = x + tf.nn.conv2d(tf.nn.relu6(tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 1, 1, 1], "SAME")), SECOND, 1, "SAME")
        return tf.matmul(tf.reduce_mean(x, [1, 2]), HEAD)

    return Network(function, {"images": Spec("float32", (None, 16, 16, 3))})


def test_products_and_what_is_fused_with_them_are_bfloat16_and_the_answer_float32() -> None:
    import tensorflow as tf

    from servekit.export import graph, precision

    written = graph.trace(network())
    lowered, count = precision.in_bfloat16(written)
    types = {node.op: node.attr["T"].type for node in lowered.graph.node}
    assert count == 3
    assert {types[op] for op in ("Conv2D", "DepthwiseConv2dNative", "BiasAdd", "Relu6", "AddV2")} == {
        tf.bfloat16.as_datatype_enum
    }
    assert {types[op] for op in ("MatMul", "Mean")} == {tf.float32.as_datatype_enum}, "the last product stays exact"
    (expected,), (logits,) = (graph.run_once(traced, {"images": IMAGES}).values() for traced in (written, lowered))
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()


def test_weights_are_stored_once_in_bfloat16() -> None:
    from servekit.export import graph, precision

    lowered, _ = precision.in_bfloat16(graph.trace(network()))
    sizes = Counter(str(value.dtype) for value in lowered.weights().values() for _ in range(value.size))
    assert sizes == {"bfloat16": FIRST.size + SECOND.size + DEPTHWISE.size, "float32": HEAD.size}


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "variables"])
def test_the_saved_model_loads_and_answers(tmp_path: Path, freeze: bool) -> None:
    import tensorflow as tf

    from servekit.export import graph, precision

    lowered, _ = precision.in_bfloat16(graph.trace(network()))
    tensor = Signature(lambda network, images: {"logits": network(images=images)}, network().inputs)
    graph.save(Model({"serving_default": tensor}, Source("random")), lowered, tmp_path / "1", freeze=freeze)
    (expected,) = graph.run_once(lowered, {"images": IMAGES}).values()
    with tf.Graph().as_default() as loaded, tf.compat.v1.Session(graph=loaded) as session:
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "1")).signature_def
        signature = signatures["serving_default"]
        answer = session.run(signature.outputs["logits"].name, {signature.inputs["images"].name: IMAGES})
    np.testing.assert_allclose(answer, expected, atol=1e-2)


def test_a_model_without_products_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "half_plus_two.py").write_text((ROOT / "export" / "half_plus_two.py").read_text())
    order = Order("half_plus_two", 1, "half_plus_two", precision="bfloat16")
    with pytest.raises(ExportError, match="half_plus_two: it has nothing that bfloat16 would make quicker"):
        export(bundle, order, lambda _: nullcontext(), print)
    assert not list(tmp_path.glob("models/half_plus_two/*"))


def test_a_classifiers_checks_say_what_bfloat16_may_change_and_what_not() -> None:
    from servekit.export.classifier import image_classifier

    images = sorted((ROOT / "export" / "samples").glob("*.jpg"))[:1]
    model = image_classifier(
        network=Network(lambda images: images, {"images": Spec("float32", (None, 16, 16, 3))}),
        preprocessing=ImagePreprocessing(16, 16),
        labels=list("abcde"),
        samples=images,
        source=Source("random"),
    )
    logits = np.array([[1.0, 5.0, 2.0, 0.0, 0.0]], np.float32)
    limits = {check.name: check.reduced for check in model.checks(lambda _: {"output": logits})}
    assert limits["preprocessing against Pillow"] is None
    assert limits["top-1 agreement"] is None
    assert limits["logits against the network as written"] == Limit(max_abs=0.5)
    assert limits["bytes to probability, whole chain"] == Limit(max_abs=0.05)


def test_scaled_jpeg_is_for_classifiers_of_image_files(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "half_plus_two.py").write_text((ROOT / "export" / "half_plus_two.py").read_text())
    order = Order("half_plus_two", 1, "half_plus_two", scaled_jpeg=True)
    with pytest.raises(ExportError, match="half_plus_two: --scaled-jpeg is for classifiers of image files"):
        export(Bundle(tmp_path), order, lambda _: nullcontext(), print)
