"""A Hugging Face ViT classifier, from its hub or a local folder, in our own Keras model.

    servekit export vit --version 1                                    google/vit-base-patch16-224, downloaded
    servekit export vit --version 1 --source nateraw/food              another id of the hub
    servekit export vit --version 1 --source path/to/folder            config.json, preprocessor_config.json, weights

The network, with the options of transformers' ViTConfig, is servekit.export.vit_model's; here are the folder's files
and what its settings mean. Each tensor of the file is used, or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from servekit.errors import ExportError
from servekit.export.classifier import image_classifier
from servekit.export.own_model import sample_photographs
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Model, Network, Options, Recipe, Source, Spec
from servekit.export.safetensors import load_shards, load_tensors
from servekit.export.torch_weights import load_state_dict

DEFAULT_ID = "google/vit-base-patch16-224"
RECIPE = Recipe(
    title="Vision Transformer, image classifier",
    licence="Apache-2.0",
    url=f"https://huggingface.co/{DEFAULT_ID}",
    source=f"a Hugging Face model id or a folder with its files (default: {DEFAULT_ID})",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
_RESAMPLE: Mapping[int, Any] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
Tensors = dict[str, Any]


def build(options: Options) -> Model:
    folder = _folder(options.source or DEFAULT_ID)
    config = _checked_config({**_DEFAULTS, **_read_json(folder / "config.json")})
    files, state = _weights(folder)
    if "classifier.bias" not in state:
        raise ExportError(
            f"{files[0].name}: no classifier.bias in it, so no classes: this is a network without its head"
        )
    preprocessing = _preprocessing(_read_json(folder / "preprocessor_config.json"), config["image_size"])
    model = image_classifier(
        network=_network(config, state),
        preprocessing=preprocessing,
        labels=_labels(config, len(state["classifier.bias"])),
        samples=sample_photographs(),
        source=Source(_name(options.source), (folder / "config.json", *files)),
        best=True,
    )
    # A network of this size needs a second for each warm signature at every load.
    return replace(model, warmup={name: model.warmup[name] for name in ("serving_default", "tensor")})


def _name(source: str | None) -> str:
    """What the manifest tells of where the weights came from: of a folder its name, not where it lies."""
    return Path(source).expanduser().name if source and Path(source).expanduser().is_dir() else source or DEFAULT_ID


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(source) or path.exists():
        raise ExportError(f"{source}: neither a folder nor a Hugging Face model id (OWNER/NAME)")
    hint = f"hf download {source} --local-dir FOLDER, where there is a network; then --source FOLDER"
    try:
        from huggingface_hub import snapshot_download  # type: ignore[import-not-found]
    except ImportError:
        raise ExportError(
            f"{source}: downloading needs the package huggingface_hub",
            hint=f"{hint}; or here: python -m pip install huggingface_hub",
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=list(_FILES)))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ExportError(f"{source}: cannot be downloaded: {text}", hint=hint) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path.name}: not in {path.parent.name}") from None
    except (OSError, ValueError) as error:
        raise ExportError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ExportError(f"{path.name}: not a JSON object")
    return document


def _checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """Whatever transformers' ViTConfig may say of an image classifier; what it may not is told by its name.

    Returned with `image_size` and `patch_size` as (height, width).
    """

    def refuse(why: str) -> ExportError:
        return ExportError(f"config.json: {why}")

    if config.get("model_type") != "vit":
        raise refuse(f"model_type is {config.get('model_type')!r}, this recipe is for 'vit'")
    if config["num_channels"] != 3:
        raise refuse(f"num_channels is {config['num_channels']}, images have 3")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise refuse(f"{name} is {config[name]!r}, not a whole number of at least 1")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise refuse(f"hidden_size {config['hidden_size']} is not shared out by {config['num_attention_heads']} heads")
    if not isinstance(config["layer_norm_eps"], (int, float)):
        raise refuse(f"layer_norm_eps is {config['layer_norm_eps']!r}, not a number")
    for name in ("image_size", "patch_size"):
        if min(_pair(config[name])) < 1:
            raise refuse(f"{name} is {config[name]!r}, not a number of pixels, nor a height and a width")
    if any(i < p for i, p in zip(_pair(config["image_size"]), _pair(config["patch_size"]), strict=True)):
        raise refuse(f"image_size {config['image_size']} is smaller than patch_size {config['patch_size']}")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise refuse(f"problem_type is {config['problem_type']!r}, this recipe answers with one label of several")
    return {**config, **{name: _pair(config[name]) for name in ("image_size", "patch_size")}}


def _weights(folder: Path) -> tuple[list[Path], Tensors]:
    """Of one file or several shards; a `.bin` of torch where there is nothing else."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single], load_tensors(single)
    if index.is_file():
        return load_shards(index)
    path = folder / "pytorch_model.bin"
    if path.is_file():
        return [path], dict(load_state_dict(path))
    raise ExportError(f"{folder.name}: no model.safetensors, model.safetensors.index.json or pytorch_model.bin in it")


def _labels(config: Mapping[str, Any], classes: int) -> list[str]:
    names = config.get("id2label") or {}
    if not isinstance(names, Mapping):
        raise ExportError("config.json: id2label is not an object of class numbers and names")
    labels = [str(names.get(str(index), f"LABEL_{index}")) for index in range(classes)]
    if len(names) > classes:
        raise ExportError(f"config.json: id2label names {len(names)} classes, the weights have {classes}")
    return labels


def _preprocessing(settings: Mapping[str, Any], image_size: tuple[int, int]) -> ImagePreprocessing:
    """ViTImageProcessor: Pillow's resize to a fixed size, then (pixel * rescale_factor - mean) / std."""

    def refuse(why: str) -> ExportError:
        return ExportError(f"preprocessor_config.json: {why}; write a recipe with ImagePreprocessing")

    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViTImageProcessor"
    if not str(kind).startswith("ViT"):
        raise refuse(f"it is for a {kind}, this recipe does what a ViTImageProcessor does")
    size = settings.get("size", image_size)
    if isinstance(size, Mapping):
        if set(size) != {"height", "width"}:
            raise refuse(f"size {dict(size)} is not a height and a width")
        size = (size["height"], size["width"])
    if _pair(size) != image_size:
        raise refuse(
            f"it resizes to {size if min(_pair(size)) < 1 else list(_pair(size))}, config.json says {list(image_size)}"
        )
    if not settings.get("do_resize", True) or settings.get("do_center_crop"):
        raise refuse("images are resized without a crop here")
    resample = settings.get("resample", 2)
    if resample not in _RESAMPLE:
        raise refuse(f"resample {resample} is neither 2 (bilinear) nor 3 (bicubic)")
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not isinstance(factor, (int, float)) or factor <= 0:
        raise refuse(f"rescale_factor is {factor!r}, not a number above 0")

    def channels(name: str, otherwise: float) -> tuple[float, float, float]:
        """In grey levels. Of one number for all channels, or three."""
        value = settings.get(name) if settings.get("do_normalize", True) else otherwise
        value = 0.5 if value is None else value
        values = value if isinstance(value, list) else [value] * 3
        if len(values) != 3 or not all(isinstance(number, (int, float)) for number in values):
            raise refuse(f"{name} is {value!r}, not a number, nor three")
        red, green, blue = (number / factor for number in values)
        return red, green, blue

    mean, std = channels("image_mean", 0.0), channels("image_std", 1.0)
    if 0 in std:
        raise refuse("image_std has a 0, by which pixels would be divided")
    return ImagePreprocessing(*image_size, _RESAMPLE[resample], mean=mean, std=std)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width, of a number or a pair; zeros for what is neither."""
    pair = size if isinstance(size, (list, tuple)) else [size] * 2
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        return 0, 0
    return pair[0], pair[1]


def _network(config: Mapping[str, Any], state: Tensors) -> Network:
    from servekit.export import vit_model

    if config["hidden_act"] not in vit_model.ACTIVATIONS:
        known = ", ".join(sorted(vit_model.ACTIVATIONS))
        raise ExportError(f"config.json: hidden_act {config['hidden_act']} is not known; known are {known}")

    @cache
    def model() -> Any:
        found = vit_model.loaded(config, state)
        state.clear()  # the model's variables hold them now
        return found

    def function(images: Any) -> Any:
        import tensorflow as tf

        with tf.init_scope():  # not part of the graph that calls this
            keras_model = model()
            values = {variable.path: variable.value.numpy() for variable in keras_model.trainable_variables}
        # As constants from the start: to turn variables into them afterwards takes seconds. Read through an identity,
        # as variables are: so biases stay float32 under --precision bfloat16, where they would slow their products.
        weights = [tf.identity(tf.constant(value, name=path)) for path, value in values.items()]
        logits, _ = keras_model.stateless_call(weights, [], images, training=False)
        return logits

    return Network(function, {"images": Spec("float32", (None, *config["image_size"], 3))})
