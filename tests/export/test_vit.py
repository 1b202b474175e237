"""Our ViT beside torch and transformers, by recorded answers (make_vit_reference.py)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export import recipes
from servekit.export.preprocessing import reference_input
from servekit.export.recipe import Model, Options
from servekit.export.safetensors import load_tensors
from servekit.paths import Bundle
from tests.export import vit_base
from tests.export.bundles import ROOT

VIT = ROOT / "tests" / "export" / "vit"
PHOTO = (ROOT / "export" / "samples" / "coffee.jpg").read_bytes()


def build(source: Path | str) -> Model:
    return recipes.load(Bundle(ROOT), "vit").build(Options(source=str(source)))


def changed(folder: Path, file: str = "config.json", **settings: Any) -> Path:
    """A copy of the small model with other settings."""
    shutil.copytree(VIT / "small", folder)
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**document, **settings}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "other"])
def test_logits_are_torchs(name: str) -> None:
    from servekit.export import graph

    network = build(VIT / name).network
    assert network is not None
    traced = graph.trace(network)
    with np.load(VIT / name / "reference.npz") as reference:
        for given, expected in (("pixels", "logits"), ("photo_pixels", "photo_logits")):
            (logits,) = graph.run_once(traced, {"images": reference[given]}).values()
            np.testing.assert_allclose(logits, reference[expected], atol=1e-5)


@pytest.mark.slow
def test_logits_of_base_16_are_torchs(tmp_path: Path) -> None:
    """86.6 million parameters. Measured: max 4e-6 of logits of about 1."""
    from servekit.export import graph

    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(VIT / "base" / name, tmp_path)
    vit_base.write_safetensors(tmp_path / "model.safetensors", vit_base.tensors())
    network = build(tmp_path).network
    assert network is not None
    (logits,) = graph.run_once(graph.trace(network), {"images": vit_base.pixels()}).values()
    with np.load(VIT / "base" / "reference.npz") as reference:
        assert reference["logits"].std() > 0.5
        np.testing.assert_allclose(logits, reference["logits"], atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside Keras, with NumPy 2
@pytest.mark.parametrize("name", ["small", "other"])
def test_the_network_is_a_keras_model_of_just_the_files_weights(name: str, tmp_path: Path) -> None:
    import keras

    from servekit.export import vit_model

    source = json.loads((VIT / name / "config.json").read_text())
    recipe = recipes.load(Bundle(ROOT), "vit")
    config = __import__("sys").modules[recipe.build.__module__]._checked_config({"qkv_bias": True, **source})
    state = load_tensors(VIT / name / "model.safetensors")
    model = vit_model.loaded(config, state)
    assert isinstance(model, keras.Model)
    assert model.count_params() == sum(value.size for value in state.values())
    assert len(model.weights) == len(state)
    model.save(tmp_path / "vit.keras")
    again = keras.models.load_model(tmp_path / "vit.keras")
    with np.load(VIT / name / "reference.npz") as reference:
        for network in (model, again):
            np.testing.assert_allclose(network.predict(reference["pixels"], verbose=0), reference["logits"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu_10", "quick_gelu", "leaky_relu", "mish", "relu2", "silu", "linear"])
def test_activations_are_what_transformers_calls_so(name: str) -> None:
    from servekit.export import vit_model

    x = np.linspace(-15, 15, 61, dtype=np.float32)
    expected = {
        "gelu_10": np.clip(x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x), -10, 10),
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "mish": x * np.tanh(np.log1p(np.exp(x))),
        "relu2": np.maximum(x, 0) ** 2,
        "silu": x / (1 + np.exp(-x)),
        "linear": x,
    }[name]
    np.testing.assert_allclose(np.asarray(vit_model.ACTIVATIONS[name](x)), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["small", "other"])
def test_the_reference_pipeline_is_the_image_processors(name: str) -> None:
    recipe = recipes.load(Bundle(ROOT), "vit")
    module = __import__("sys").modules[recipe.build.__module__]
    config = json.loads((VIT / name / "config.json").read_text())
    settings = json.loads((VIT / name / "preprocessor_config.json").read_text())
    size = config["image_size"]
    preprocessing = module._preprocessing(settings, tuple(size) if isinstance(size, list) else (size, size))
    with np.load(VIT / name / "reference.npz") as reference:
        np.testing.assert_allclose(reference_input(PHOTO, preprocessing), reference["photo_pixels"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("config.json", {"model_type": "deit"}, "model_type is 'deit', this recipe is for 'vit'"),
        ("config.json", {"num_channels": 1}, "num_channels is 1"),
        ("config.json", {"hidden_act": "wave"}, "hidden_act wave is not known; known are gelu, "),
        ("config.json", {"id2label": {str(i): "x" for i in range(9)}}, "id2label names 9 classes, the weights have 6"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 32}}, "is not a height and a width"),
        ("preprocessor_config.json", {"size": 64}, r"resizes to \[64, 64\], config.json says \[32, 32\]"),
        ("preprocessor_config.json", {"resample": 0}, "resample 0 is neither"),
        ("preprocessor_config.json", {"do_center_crop": True}, "without a crop"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "it is for a CLIPImageProcessor"),
        ("preprocessor_config.json", {"size": None}, "it resizes to None"),
        ("preprocessor_config.json", {"rescale_factor": 0}, "rescale_factor is 0, not a number above 0"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, r"image_mean is \[0\.5\], not a number, nor three"),
        ("preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}, "image_std has a 0"),
        ("config.json", {"id2label": ["cat"] * 6}, "id2label is not an object"),
        ("config.json", {"hidden_size": 33}, "hidden_size 33 is not shared out by 4 heads"),
        ("config.json", {"intermediate_size": "x"}, "intermediate_size is 'x', not a whole number"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads is 0, not a whole number"),
        ("config.json", {"patch_size": 0}, "patch_size is 0, not a number of pixels"),
        ("config.json", {"image_size": 4}, "image_size 4 is smaller than patch_size 8"),
        ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small', not a number"),
        ("config.json", {"problem_type": "multi_label_classification"}, "answers with one label of several"),
    ],
)
def test_what_the_recipe_cannot_do_is_refused(tmp_path: Path, file: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        build(changed(tmp_path / "vit", file, **settings))


@pytest.mark.parametrize(
    "settings",
    [{"image_mean": 0.5, "image_std": 0.5}, {"image_mean": None}, {"size": 32}, {"size": [32, 32]}, {"crop_pct": 0.9}],
    ids=str,
)
def test_settings_may_be_written_as_transformers_reads_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    usual, other = (
        build(changed(tmp_path / name, "preprocessor_config.json", **given)).warmup["tensor"]["images"]
        for name, given in (("usual", {}), ("other", settings))
    )
    np.testing.assert_array_equal(usual, other)


def test_a_network_without_its_head_is_told(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "vit", parts=1)
    (path,) = folder.glob("model-*.safetensors")
    path.write_bytes(path.read_bytes().replace(b"classifier.bias", b"something.else_"))
    (folder / "model.safetensors.index.json").unlink()
    path.rename(folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"model\.safetensors: no classifier\.bias in it"):
        build(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_hidden_layers": 1}, r"has no place for: vit\.encoder\.layer\.1\.attention"),
        ({"num_hidden_layers": 3}, r"lack vit\.encoder\.layer\.2\.layernorm_before"),
        ({"intermediate_size": 10**9}, r"intermediate\.dense\.weight of the weights is \[48, 32\], config\.json asks"),
        ({"qkv_bias": False}, r"no place for: vit\.encoder\.layer\.0\.attention\.attention\.key\.bias"),
        (
            {"hidden_size": 64},
            r"projection\.weight of the weights is \[32, 3, 8, 8\], config\.json asks for \[64, 3, 8, 8\]",
        ),
        (
            {"image_size": 64},
            r"position_embeddings of the weights is \[1, 17, 32\], config\.json asks for \[1, 65, 32\]",
        ),
    ],
    ids=["a layer too many", "a layer too few", "more than memory holds", "biases left", "wider", "larger images"],
)
def test_every_tensor_of_the_file_is_accounted_for(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    from servekit.export import graph

    folder = changed(tmp_path / "vit", **settings)
    of_images = folder / "preprocessor_config.json"
    of_images.write_text(of_images.read_text().replace("32", str(settings.get("image_size", 32))))
    network = build(folder).network
    assert network is not None
    with pytest.raises(ExportError, match=reason):
        graph.trace(network)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = changed(tmp_path / "vit")
    (folder / missing).unlink()
    with pytest.raises(ExportError, match=missing):
        build(folder)


def test_a_source_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    with pytest.raises(ExportError, match="neither a folder nor a Hugging Face model id"):
        build("no-such-folder")


def sharded(folder: Path, parts: int = 2) -> Path:
    """The small model with its weights in several files, as transformers writes those of more than 5 GB."""
    changed(folder)
    tensors = list(load_tensors(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    places = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        header, data = {}, b""
        for name, value in tensors[part::parts]:
            stop = len(data) + value.nbytes
            header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [len(data), stop]}
            data += value.tobytes()
            places[name] = file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.slow
def test_weights_in_several_files_give_the_same_logits(tmp_path: Path) -> None:
    from servekit.export import graph

    model = build(sharded(tmp_path / "vit"))
    assert model.network is not None
    assert [path.name for path in model.source.files[1:]] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    with np.load(VIT / "small" / "reference.npz") as reference:
        (logits,) = graph.run_once(graph.trace(model.network), {"images": reference["pixels"]}).values()
        np.testing.assert_allclose(logits, reference["logits"], atol=1e-5)


def test_a_missing_or_foreign_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "vit")
    first, second = sorted(folder.glob("model-*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ExportError, match=r"model-00002-of-00002\.safetensors: not the file that model\.safet.* means"):
        build(folder)
    second.unlink()
    with pytest.raises(ExportError, match=r"model-00002-of-00002\.safetensors: .* names it, but it is not there"):
        build(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_a_broken_index_is_one_clear_line(tmp_path: Path, text: str) -> None:
    folder = sharded(tmp_path / "vit")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ExportError, match=r"model\.safetensors\.index\.json: not an index of safetensors files"):
        build(folder)


def test_a_hub_id_without_network_says_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there, should the package be installed
    with pytest.raises(ExportError, match=r"^google/vit-base-patch16-224: (downloading needs|cannot be)") as caught:
        build("google/vit-base-patch16-224")
    assert str(caught.value.hint).startswith("hf download google/vit-base-patch16-224 --local-dir FOLDER")
