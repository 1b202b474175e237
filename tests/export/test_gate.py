"""The gate before publishing: what each of its three parts refuses, and that nothing is published then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servekit.errors import ConfigError, ExportError
from servekit.export import warmup
from servekit.paths import Bundle
from tests.export import zoo
from tests.export.bundles import new_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Publish = Callable[..., dict[str, Any]]

HEAD = """
import numpy as np
import tensorflow as tf
from servekit.export.classifier import image_classifier
from servekit.export.own_model import sample_photographs
from servekit.export.preprocessing import ImagePreprocessing, reference_input
from servekit.export.recipe import Check, Limit, Model, Network, Recipe, Signature, Source, Spec, strings

RECIPE = Recipe("Under test", "MIT", "https://example.org")
ANY = Spec("float32", (None,))
ONE = np.ones(1, np.float32)

"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return new_bundle(tmp_path_factory.mktemp("gate") / "bundle")


@pytest.fixture
def publish(bundle: Bundle, request: pytest.FixtureRequest) -> Publish:
    """Exports a recipe of this text as version 1 of a model named after the test; its manifest."""
    name = request.node.originalname.removeprefix("test_")[:40]

    def export(text: str, **order: Any) -> dict[str, Any]:
        (bundle.recipes / f"{name}.py").write_text(HEAD + text)
        return zoo.run(bundle, name, name, **order)

    def nothing_published() -> bool:
        return not (bundle.models / name).exists() and list(bundle.staging.iterdir()) == []

    export.nothing_published = nothing_published  # type: ignore[attr-defined]
    export.folder = bundle.models / name / "1"  # type: ignore[attr-defined]
    return export


def refused(publish: Publish, text: str, **order: Any) -> str:
    with pytest.raises(ExportError) as caught:
        publish(text, **order)
    assert publish.nothing_published()  # type: ignore[attr-defined]
    return caught.value.message


def test_a_model_that_works_in_python_alone_is_refused(publish: Publish) -> None:
    """py_function calls back into the process that built the graph; no server has that."""
    text = """
def build(options):
    half = lambda _, x: {"y": tf.reshape(tf.py_function(lambda v: v / 2, [x], tf.float32), [-1])}
    return Model({"serving_default": Signature(half, {"x": ANY})}, Source("none"),
                 checks=lambda _: [Check("y", "serving_default", {"x": ONE}, "y", ONE / 2, Limit(max_abs=0.0))])
"""
    message = refused(publish, text)
    assert message.startswith("the exported model does not work when loaded as TF Serving loads it: ")
    assert message.endswith("(node 'serving_default/EagerPyFunc')")


WRONG_RESIZE = """
HOW = ImagePreprocessing(32, 32)

def build(options):
    def serve(network, image_bytes):
        def one(data):
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.image.resize(image, (32, 32)) / 255.0  # without antialias, as tutorials have it
        images = tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec((32, 32, 3), tf.float32))
        return {"mean": tf.reduce_mean(tf.identity(images, name="preprocessed"), axis=(1, 2, 3))}
    data = [path.read_bytes() for path in sample_photographs()]
    images = np.stack([reference_input(one, HOW) for one in data])
    check = Check("preprocessing against Pillow", "serving_default", {"image_bytes": strings(*data)},
                  "serving_default/preprocessed:0", images, Limit(max_abs=1.01, mean_abs=0.01), "grey levels", 255.0)
    return Model({"serving_default": Signature(serve, {"image_bytes": Spec("string", (None,))})}, Source("none"),
                 checks=lambda _: [check], warmup={"serving_default": {"image_bytes": strings(data[0])}})
"""


def test_a_wrong_resize_is_refused_with_its_numbers_unless_forced(publish: Publish) -> None:
    message = refused(publish, WRONG_RESIZE)
    assert "the exported model's answers are not the expected ones: preprocessing against Pillow: max " in message
    assert "(limit 1.01)" in message
    manifest = publish(WRONG_RESIZE, force_tolerance=True)
    (result,) = manifest["parity"]
    assert result["ok"] is False
    assert result["max_abs"] > 20
    published = json.loads((publish.folder / "manifest.json").read_text())  # type: ignore[attr-defined]
    assert published["parity"] == manifest["parity"]


def test_a_warmup_that_fails_is_refused(publish: Publish) -> None:
    text = """
def build(options):
    root = lambda _, x: {"y": tf.sqrt(tf.debugging.check_numerics(x, "x is not finite"))}
    return Model({"serving_default": Signature(root, {"x": ANY})}, Source("none"),
                 warmup={"serving_default": {"x": ONE * np.nan}})
"""
    message = refused(publish, text)
    assert "warmup of serving_default: " in message
    assert "x is not finite : Tensor had NaN values (node 'serving_default/CheckNumerics')" in message


SLOW = """
def build(options):
    def busy(rounds):
        def function(_, x):
            def body(i, m):
                return i + 1, tf.nn.softmax(m @ m)
            _, m = tf.while_loop(lambda i, _: i < rounds, body, (0, tf.eye(256) + x[0]))
            return {"y": x + tf.reduce_sum(m)}
        return Signature(function, {"x": ANY})
    return Model({"third": busy(1), "slow": busy(2500), "serving_default": busy(1)}, Source("none"),
                 warmup={"slow": {"x": ONE}, "third": {"x": ONE}, "serving_default": {"x": ONE}})
"""


@pytest.mark.parametrize(("sizes", "hint"), [((1, 8), "--warmup-batch 1"), ((1,), "--warmup-batch none")])
def test_batch_sizes_that_are_to_be_warm_and_take_too_long_are_refused(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], hint: str
) -> None:
    monkeypatch.setattr(warmup, "LIMIT_S", 1e-6)
    with pytest.raises(ExportError) as error:
        publish(SLOW, warmup_batch_sizes=sizes)
    assert error.value.message.startswith(f"warmup: {len(sizes)} records took ")
    assert "at most 1e-06 s are allowed" in error.value.message
    assert str(error.value.hint).endswith(hint)
    assert publish.nothing_published()  # type: ignore[attr-defined]


def test_a_model_of_slow_requests_is_published_without_warmup_where_none_was_asked_for(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "LIMIT_S", 1e-6)
    said: list[str] = []
    manifest = publish(SLOW, say=said.append)
    assert manifest["warmup"]["records"] == 0
    assert manifest["warmup"]["left_out"] == {name: [1, 8] for name in ("slow", "third", "serving_default")}
    assert "    no warmup for slow, third, serving_default: 1e-06 s or 16 MB used up" in said
    assert not (publish.folder / "assets.extra").exists()  # type: ignore[attr-defined]


def test_no_warmup_at_all_where_that_is_asked_for(publish: Publish) -> None:
    facts = publish(SLOW, warmup_batch_sizes=())["warmup"]
    assert (facts["records"], facts["batch_sizes"], facts["left_out"]) == (0, [], {})
    assert not (publish.folder / "assets.extra").exists()  # type: ignore[attr-defined]


def test_each_signature_is_warm_as_far_as_time_allows_the_default_one_first(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "LIMIT_S", 0.6)
    said: list[str] = []
    manifest = publish(SLOW, warmup_batch_sizes=(4, 1, 16), say=said.append)
    assert manifest["warmup"]["batch_sizes"] == [1, 4, 16]
    assert manifest["warmup"]["left_out"] == {"slow": [1, 4, 16]}
    assert [line for line in said if "warmup" in line] == ["    no warmup for slow: 0.6 s or 16 MB used up"]
    assert manifest["warmup"]["records"] == 6
    records = list(warmup.read(publish.folder))  # type: ignore[attr-defined]
    assert [(name, len(inputs["x"])) for name, inputs in records] == [
        *(("serving_default", size) for size in (1, 4, 16)),
        *(("third", size) for size in (1, 4, 16)),
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("'cat'", "labels: a list of names is expected, not one text"),
        ("['cat', 3]", "labels: number 1 is 3, not text"),
        ("[b'\\xe9'.decode(errors='surrogateescape')]", "labels: number 0 is '\\udce9', not text"),
    ],
    ids=["one text", "a number", "another encoding"],
)
def test_labels_that_are_none_are_said_at_once(publish: Publish, labels: str, message: str) -> None:
    text = f"""
def build(options):
    network = Network(lambda images: images[:, 0, 0], {{"images": Spec("float32", (None, 8, 8, 3))}})
    return image_classifier(network=network, preprocessing=ImagePreprocessing(8, 8), labels={labels},
                            samples=sample_photographs(), source=Source("none"))
"""
    assert refused(publish, text).startswith(message)


def test_ten_thousand_labels_are_no_trouble(publish: Publish) -> None:
    text = """
def build(options):
    weights = np.random.default_rng(0).normal(size=(3, 10000)).astype(np.float32)
    network = Network(lambda images: tf.reduce_mean(images, axis=(1, 2)) @ weights,
                      {"images": Spec("float32", (None, 8, 8, 3))})
    return image_classifier(network=network, preprocessing=ImagePreprocessing(8, 8), source=Source("none"),
                            labels=[f"классс {number}" for number in range(10000)],
                            samples=sample_photographs()[:1])
"""
    manifest = publish(text, warmup_batch_sizes=(1,))
    assert all(result["ok"] for result in manifest["parity"])
    assert manifest["size_bytes"] < 2_000_000


@pytest.mark.parametrize("wrong", ["raise SystemExit(3)", "raise ValueError('no weights')", "import no_such_module"])
def test_a_mistake_in_build_is_shown_with_its_line(publish: Publish, wrong: str) -> None:
    message = refused(publish, f"def build(options):\n    {wrong}\n")
    assert ".py:14: " in message


def test_the_traceback_is_kept_for_those_who_ask(publish: Publish) -> None:
    with pytest.raises((ExportError, ConfigError)) as caught:
        publish("def build(options):\n    raise ValueError('no weights')\n")
    assert caught.value.hint == "--traceback shows how Python came there"
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_manifest_says_what_it_is_made_of_and_what_is_in_it(bundle: Bundle, tmp_path: Path) -> None:
    from tests.export.saved_networks import save_keras

    save_keras(tmp_path / "mine.keras")
    manifest = zoo.run(bundle, "saved_model", "mine", tmp_path / "mine.keras")
    folder = bundle.models / "mine" / "1"
    assert manifest["recipe"]["file"] == "export/saved_model.py"
    assert set(manifest["packages"]) >= {"python", "keras", "numpy", "pillow", "protobuf"}
    (weights,) = manifest["weights"]["files"]
    assert (weights["name"], len(weights["sha256"])) == ("mine.keras", 64)
    assert weights["size_bytes"] == (tmp_path / "mine.keras").stat().st_size
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert {name: facts["size_bytes"] for name, facts in manifest["files"].items()} == {
        name: (folder / name).stat().st_size for name in manifest["files"]
    }
    assert manifest["signatures"]["serving_default"]["inputs"] == {
        "photo": {"dtype": "float32", "shape": [-1, 32, 32, 3]}
    }
