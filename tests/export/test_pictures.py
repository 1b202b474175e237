"""Segmentation and image-to-image: exported from real weights and TF1 files, served side by side, asked."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from servekit.client import Client, ModelSpec
from servekit.errors import ExportError
from servekit.export import recipes
from servekit.export.recipe import Network, Options
from servekit.paths import Bundle
from tests.conftest import RunningServer, Serve
from tests.export import generators, zoo
from tests.export.bundles import ROOT, new_bundle, servekit
from tests.export.deeplab_release import PERSON, frozen_graph, save_release
from tests.export.pictures import bombs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside Keras, with NumPy 2
]

SAMPLES = ROOT / "export" / "samples"
PORTRAIT = (SAMPLES / "eileen_collins.jpg").read_bytes()
ROCKET = (SAMPLES / "rocket.jpg").read_bytes()
FACE = (100, 225)
"""Row and column of a pixel of the portrait that is surely a person's; (5, 5) surely is not."""
BATCHING = """
max_batch_size { value: 16 }
batch_timeout_micros { value: 50000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
"""


def png(size: int, seed: int = 0) -> bytes:
    """A smooth picture of its own for each seed, size x size."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def pixels(data: bytes) -> Any:
    """[rows, columns] for a mask, [rows, columns, 3] for a picture."""
    return np.asarray(Image.open(io.BytesIO(data)))


Built = tuple[Bundle, Mapping[str, Mapping[str, Any]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Manifests by model name."""
    root = tmp_path_factory.mktemp("pictures")
    bundle = new_bundle(root / "bundle")
    save_release(root / "deeplab.tar.gz", tflite_file())
    generators.save_checkpoint(root / "model.ckpt-7")
    generators.save_frozen_pixels(root / "negative.pb")
    generators.save_keras(root / "negative.keras")

    def gan(name: str, source: Path) -> dict[str, Any]:
        return zoo.run(bundle, "image_to_image", name, source, variant="cyclegan")

    return bundle, {
        "selfie": zoo.run(bundle, "segmentation", "selfie"),
        "deeplab": zoo.run(bundle, "segmentation", "deeplab", root / "deeplab.tar.gz", variant="pascal"),
        "enlarge": zoo.run(bundle, "image_to_image", "enlarge", variant="x2"),
        "gan_files": gan("gan_files", root / "model.ckpt-7.meta"),
        "gan_pixels": gan("gan_pixels", root / "negative.pb"),
        "gan_keras": gan("gan_keras", root / "negative.keras"),
        "roads": documented(bundle, root / "roads"),
    }


def documented(bundle: Bundle, saved_model: Path) -> dict[str, Any]:
    """The recipe in docs/pictures.md, with a SavedModel whose three scores are the image's own colours."""
    import tensorflow as tf

    (recipe,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pictures.md").read_text(), re.DOTALL)
    (bundle.recipes / "roads.py").write_text(recipe)
    module = tf.Module()
    photo = tf.TensorSpec([None, 256, 256, 3], tf.float32, name="photo")
    function = tf.function(lambda photo: {"scores": photo * tf.constant([1.0, 0.9, 0.8])}, input_signature=[photo])
    tf.saved_model.save(module, str(saved_model), signatures={"serving_default": function})
    return zoo.run(bundle, "roads", "roads", saved_model)


def tflite_file() -> Path:
    from servekit.export.npm_package import npm_files

    module = recipes.load(Bundle(ROOT), "segmentation").build.__globals__
    (path,) = npm_files(module["_SELFIE"]).values()
    return path


@pytest.fixture(scope="module")
def server(serve: Serve, built: Built) -> RunningServer:
    bundle, manifests = built
    configs = "".join(
        f"config {{ name: '{name}' base_path: '{bundle.models / name}' model_platform: 'tensorflow' }}\n"
        for name in manifests
    )
    return serve(
        "--model_config_file={work}/models.config",
        "--enable_batching=true",
        "--batching_parameters_file={work}/batching.config",
        files={"batching.config": BATCHING, "models.config": f"model_config_list {{\n{configs}}}\n"},
    )


@pytest.fixture(params=["REST", "gRPC"])
def url(server: RunningServer, request: pytest.FixtureRequest) -> str:
    return server.rest if request.param == "REST" else f"grpc://{server.grpc}"


def ask(url: str, model: str, **inputs: Any) -> dict[str, Any]:
    with Client(url) as client:
        return dict(client.predict(model, inputs).outputs)


def test_every_export_was_held_to_its_reference_and_warmed_up(built: Built) -> None:
    for name, manifest in built[1].items():
        assert manifest["parity"], name
        assert all(result["ok"] for result in manifest["parity"]), name
        assert manifest["warmup"]["records"] >= 1, name
        assert manifest["warmup"]["batch_sizes"] == ([1, 8] if name in ("selfie", "gan_keras", "roads") else [1]), name
    selfie = built[1]["selfie"]
    assert "scores against TensorFlow Lite" in [result["name"] for result in selfie["parity"]]
    assert [weights["name"] for weights in selfie["weights"]["files"]] == ["selfie_segmentation.tflite"]


@pytest.mark.parametrize(("model", "person", "side"), [("selfie", 1, 256), ("deeplab", PERSON, 513)])
def test_masks_have_the_size_of_each_image_and_a_broken_one_has_none(
    url: str, model: str, person: int, side: int
) -> None:
    answer = ask(url, model, image_bytes=[PORTRAIT, b"garbage", ROCKET])
    assert answer["valid"].tolist() == [True, False, True]
    assert answer["height"].tolist() == [512, 0, 427]
    assert answer["width"].tolist() == [512, 0, 640]
    portrait, nothing, rocket = answer["mask_bytes"]
    assert nothing == b""
    assert pixels(rocket).shape == (427, 640)
    assert not pixels(rocket).any()
    mask = pixels(portrait)
    assert mask.shape == (512, 512)
    assert (mask[FACE], mask[5, 5]) == (person, 0)
    assert answer["class_map"].shape == (3, side, side)
    row, column = (place * side // 512 for place in FACE)
    assert answer["class_map"][0, row, column] == person
    assert not answer["class_map"][1].any()
    assert answer["labels"][:, 0].tolist() == [b"person", b"", b"background"]
    assert answer["class_ids"][:, 0].tolist() == [person, -1, 0]
    assert answer["shares"][0, 0] == pytest.approx((mask == person).mean(), abs=0.01)


def test_a_network_of_ones_own_needs_no_graph_code(url: str) -> None:
    red, green, blue = (np.zeros((8, 8, 3), np.uint8) for _ in range(3))
    red[:], green[:], blue[:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    picture = io.BytesIO()
    Image.fromarray(np.concatenate([blue, red, green])).save(picture, "PNG")
    answer = ask(url, "roads", image_bytes=[picture.getvalue()])
    mask = pixels(answer["mask_bytes"][0])
    assert [mask[row, 4] for row in (4, 12, 20)] == [2, 0, 1]
    assert set(answer["labels"][0]) == {b"background", b"road", b"verge"}


def test_a_mask_file_opens_in_colour(url: str) -> None:
    (data,) = ask(url, "deeplab", image_bytes=[PORTRAIT])["mask_bytes"]
    mask = Image.open(io.BytesIO(data))
    assert mask.mode == "P"
    assert mask.convert("RGB").getpixel(FACE[::-1]) == (192, 128, 128)  # PASCAL VOC's colour of a person


@pytest.mark.parametrize(("model", "person"), [("selfie", 1), ("deeplab", PERSON)])
def test_float_images_with_their_heights_and_widths_are_taken_as_by_older_clients(
    url: str, model: str, person: int
) -> None:
    portrait = np.asarray(Image.open(io.BytesIO(PORTRAIT)).resize((64, 64)), np.float32)
    padded = np.pad(portrait, ((0, 16), (0, 32), (0, 0)))
    spec = ModelSpec(model, signature_name="predict_images")
    inputs = {"images": padded[None], "height": np.array([64], np.int32), "width": np.array([64], np.int32)}
    with Client(url) as client:
        found = client.predict(spec, inputs).outputs["segmentation_map"]
    assert found.shape == (1, 80, 96)
    assert (found[0, 64:] == 255).all()
    assert (found[0, :, 64:] == 255).all()
    assert set(np.unique(found[0, :64, :64])) == {0, person}
    row, column = (place // 8 for place in FACE)
    assert found[0, row, column] == person


def test_pictures_of_several_sizes_are_enlarged_in_one_request(url: str) -> None:
    answer = ask(url, "enlarge", input_bytes=[png(40), b"", png(24, seed=1)])
    assert answer["valid"].tolist() == [True, False, True]
    assert answer["height"].tolist() == answer["width"].tolist() == [80, 0, 48]
    large, nothing, small = answer["output_bytes"]
    assert nothing == b""
    assert pixels(large).shape == (80, 80, 3)
    assert pixels(small).shape == (48, 48, 3)
    expected = np.asarray(Image.open(io.BytesIO(png(40))).resize((80, 80), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(pixels(large) - expected).mean() < 8  # the same picture


def test_more_than_a_megapixel_is_not_enlarged(url: str) -> None:
    answer = ask(url, "enlarge", input_bytes=[png(1025), png(24)])
    assert answer["valid"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("model", "size", "tolerance"), [("gan_files", 64, 1), ("gan_pixels", 256, 16), ("gan_keras", 256, 2)]
)
def test_a_generator_answers_for_a_batch_whatever_it_was_frozen_for(
    url: str, model: str, size: int, tolerance: int
) -> None:
    sent = [png(size), png(size, seed=1), b"garbage"]
    answer = ask(url, model, input_bytes=sent)
    assert answer["valid"].tolist() == [True, True, False]
    for given, returned in zip(sent[:2], answer["output_bytes"], strict=False):
        negative = 255 - pixels(given).astype(int)
        assert np.abs(pixels(returned) - negative).max() <= tolerance
    assert answer["output_bytes"][2] == b""


def test_a_picture_that_the_graph_itself_refuses_fails_alone(url: str) -> None:
    answer = ask(url, "gan_files", input_bytes=[png(64), png(65)])
    assert answer["valid"].tolist() == [True, False]


@pytest.mark.parametrize("model", ["selfie", "enlarge", "gan_files", "gan_keras"])
def test_url_safe_text_is_answered_as_the_bytes_are(url: str, model: str) -> None:
    entry = "image" if model == "selfie" else "input"
    sent = [png(64, seed=3), b"garbage"]
    texts = [base64.urlsafe_b64encode(sent[0]).rstrip(b"="), base64.urlsafe_b64encode(sent[1]), b"+/no text of it"]
    with Client(url) as client:
        spec = ModelSpec(model, signature_name="serving_base64url")
        answer = client.predict(spec, {f"{entry}_base64url": texts}).outputs
    expected = ask(url, model, **{f"{entry}_bytes": sent})
    assert answer["valid"].tolist() == [True, False, False]
    files = "mask_bytes" if entry == "image" else "output_bytes"
    assert answer[files].tolist() == [*expected[files].tolist(), b""]


def test_a_graph_that_reads_files_itself_never_sees_too_many_pixels() -> None:
    """Here one that reads nothing at all, and so would let every file pass."""
    import tensorflow as tf

    from servekit.export.image_to_image_graph import call_for_each

    sent = {"good": png(64), **bombs(), "last": PORTRAIT}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        data = tf.compat.v1.placeholder(tf.string, [None])
        outputs = call_for_each(lambda file: file, "file", (), data, None)
        answer = session.run(outputs, {data: np.array([*sent.values(), None], object)[:-1]})
    assert dict(zip(sent, answer["valid"].tolist(), strict=True)) == {
        "good": True, **dict.fromkeys(bombs(), False), "last": True
    }  # fmt: skip
    assert answer["output_bytes"][-1] == PORTRAIT


@pytest.mark.parametrize("model", ["selfie", "deeplab", "enlarge", "gan_files"])
def test_broken_images_of_others_in_the_same_batch_change_nothing(url: str, model: str) -> None:
    key = "image_bytes" if model in ("selfie", "deeplab") else "input_bytes"
    good = png(64)
    sent = [good, b"garbage", good, good[:200], b"", good]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda data: ask(url, model, **{key: [data]}), sent))
    assert [bool(answer["valid"][0]) for answer in answers] == [data is good for data in sent]


@pytest.mark.parametrize(("model", "size"), [("selfie", (512, 512)), ("gan_keras", (256, 256))])
def test_the_command_writes_the_picture_to_a_file(
    server: RunningServer, built: Built, tmp_path: Path, model: str, size: tuple[int, int]
) -> None:
    photo = str(SAMPLES / "eileen_collins.jpg")
    target = tmp_path / "out.png"
    done = servekit(built[0], "predict", model, photo, "--output", str(target), "--url", server.rest)
    assert done.returncode == 0, done.stderr
    with Image.open(target) as picture:
        assert (picture.format, picture.size) == ("PNG", size)


def test_the_command_writes_no_file_for_a_broken_picture(server: RunningServer, built: Built, tmp_path: Path) -> None:
    broken, target = tmp_path / "broken.png", tmp_path / "out.png"
    broken.write_bytes(png(64)[:200])
    done = servekit(built[0], "predict", "gan_files", str(broken), "--output", str(target), "--url", server.rest)
    assert done.returncode == 1
    assert f"{broken}: the model cannot read this image" in done.stderr
    assert not target.exists()


def test_a_folder_of_photographs_becomes_a_folder_of_masks(server: RunningServer, built: Built, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "portrait.jpg").write_bytes(PORTRAIT)
    (folder / "small.png").write_bytes(png(50))
    (folder / "broken.png").write_bytes(png(50)[:200])
    results, masks = tmp_path / "results.jsonl", tmp_path / "masks"
    where = ["--output", str(results), "--output-dir", str(masks), "--url", f"grpc://{server.grpc}"]
    done = servekit(built[0], "predict", "selfie", str(folder), *where)
    assert done.returncode == 1, done.stderr  # one is broken
    lines = {line["file"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert lines["broken.png"]["valid"] is False
    sizes = {
        name: pixels((masks / line["files"]["mask_bytes"]).read_bytes()).shape
        for name, line in lines.items()
        if line["valid"]
    }
    assert sizes == {"portrait.jpg": (512, 512), "small.png": (50, 50)}


@pytest.mark.parametrize("size", [(90, 40), (300, 451)], ids=["smaller", "larger"])
def test_lanczos_is_pillows_also_beyond_black_and_white(size: tuple[int, int]) -> None:
    from servekit.export.pillow_resize import resize_like_pillow

    squares = np.kron(np.random.default_rng(0).integers(0, 2, (20, 30, 1)), np.ones((8, 8, 3))).astype(np.uint8) * 255
    height, width = size
    expected = np.asarray(Image.fromarray(squares).resize((width, height), Image.Resampling.LANCZOS), np.float32)
    found = np.asarray(resize_like_pillow(squares, height, width, "lanczos3"))
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() < 0.01


@pytest.fixture(scope="module")
def segmentation() -> recipes.Found:
    return recipes.load(Bundle(ROOT), "segmentation")


def test_deeplab_may_come_as_a_saved_model(segmentation: recipes.Found, tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = v1.GraphDef.FromString(frozen_graph(tflite_file()))
    with tf.Graph().as_default(), v1.Session() as session:
        image, ids = tf.import_graph_def(graph, return_elements=["ImageTensor:0", "SemanticPredictions:0"])
        v1.saved_model.simple_save(session, str(tmp_path / "deeplab"), {"image": image}, {"classes": ids})
    network = segmentation.build(Options("pascal", str(tmp_path / "deeplab"))).network
    assert network is not None
    (answer,) = run_once(network, np.asarray(Image.open(io.BytesIO(PORTRAIT)))[None])
    assert (answer[0][FACE], answer[0, 5, 5]) == (PERSON, 0)


def run_once(network: Network, images: Any) -> list[Any]:
    from servekit.export import graph

    return list(graph.run_once(graph.trace(network), {"images": images}).values())


def test_weights_left_as_variables_are_read_inside_loops_too(built: Built, tmp_path: Path) -> None:
    """As those of a large graph are, by themselves."""
    bundle, _ = built
    save_release(tmp_path / "deeplab.tar.gz", tflite_file())
    generators.save_frozen_files(tmp_path / "negative.pb")
    source = tmp_path / "deeplab.tar.gz"
    manifest = zoo.run(bundle, "segmentation", "variables", source, variant="pascal", optimize=False)
    assert manifest["graph"]["frozen"] is False
    assert all(result["ok"] for result in manifest["parity"])
    assert (bundle.models / "variables" / "1" / "variables" / "variables.index").is_file()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "pascal: --source is missing; DeepLab's releases are not downloaded by themselves"),
        ("notes.txt", "notes.txt: neither a DeepLab release"),
        ("missing.pb", "missing.pb: No such file"),
        ("roads", r"roads: its input photo is float32 \[None, 256, 256, 3\], not uint8"),
    ],
)
def test_what_is_no_deeplab_is_told_in_one_line(
    segmentation: recipes.Found, built: Built, source: str | None, reason: str
) -> None:
    path = None if source is None else str(built[0].root.parent / source)
    with pytest.raises(ExportError, match=reason):
        segmentation.build(Options("pascal", path))


def test_a_generator_needs_its_source(built: Built) -> None:
    with pytest.raises(ExportError) as caught:
        zoo.run(built[0], "image_to_image", "none", variant="cyclegan")
    assert caught.value.message == "cyclegan: --source is missing; there are no weights to download"
    assert str(caught.value.hint).startswith("train one")
