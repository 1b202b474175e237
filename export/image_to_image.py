"""Images to images: enlarging (ESRGAN-slim), or a CycleGAN generator of your own.

    servekit export image_to_image --version 1                            twice the size, downloaded (npm)
    servekit export image_to_image --version 2                            four times the size
    servekit export image_to_image --version 3 --source generator.keras   a CycleGAN generator, 256 pixels
    servekit export image_to_image --version 3 --source apple2orange.pb   frozen by CycleGAN-TensorFlow
    servekit export image_to_image --version 3 --source checkpoints/model.ckpt-1000.meta

Enlarging: a residual dense network (Zhang et al., arXiv:1802.08797) of UpscalerJS, in TensorFlow.js's layers format.
CycleGAN (Zhu et al., arXiv:1703.10593): a Keras model or SavedModel takes and gives pixels in [-1, 1]; a frozen TF1
graph or checkpoint has the nodes `input_bytes` and `output_bytes` (an encoded image each) or, as CycleGAN-TensorFlow
freezes it, `input_image` (pixels in [-1, 1]) and `output_image` (an encoded image).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servekit.errors import ExportError
from servekit.export import network_file
from servekit.export.image_to_image import OwnSize, Values, image_to_image, scaled_png, wrapped_graph
from servekit.export.network_file import NetworkFile
from servekit.export.npm_package import NpmPackage, npm_files
from servekit.export.own_model import chosen_output, of_images, sample_photographs
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Model, Network, Options, Recipe, Source, Variant
from servekit.export.tf1_graph import NoSuchNode, is_tf1_graph, tf1_network
from servekit.export.tfjs import tfjs_layers_network

RECIPE = Recipe(
    title="Image to image",
    licence="MIT",
    url="https://github.com/thekevinscott/UpscalerJS",
    variants=(
        Variant("x2", "ESRGAN-slim, twice the width and height", version=1),
        Variant("x4", "ESRGAN-slim, four times the width and height", version=2),
        Variant("cyclegan", "a CycleGAN generator, 256 px; needs --source", version=3),
    ),
    source="cyclegan: Keras model, SavedModel folder, frozen .pb or checkpoint; x2, x4: model.json (default: download)",
)

_ESRGAN = {
    "x2": {
        "models/x2/model.json": "8efb488c2caed0196a6163e3f06798f9245e92623ffd50654a26c372e09150ea",
        "models/x2/group1-shard1of1.bin": "5cb464ae4d390ce0a771afd5feaf60fbfcdb18ab48a56db98cdf6b88202369de",
    },
    "x4": {
        "models/x4/model.json": "3a2eaa642232567e7d2a2e7638c9704f42f63f355fc656c18aa78bf2da1d903d",
        "models/x4/group1-shard1of1.bin": "82637daaf3ba024df5e9da2389e8992e7a6e8a992ba6268ce6bc490c92e9516e",
    },
}
_LARGEST = 1024 * 1024
"""Pixels to enlarge: the network keeps up to 128 numbers for each, half a gigabyte."""
_SIDE = 256
_NODES = (("input_bytes", "output_bytes"), ("input_image", "output_image"))


def build(options: Options) -> Model:
    source = None if options.source is None else Path(options.source).expanduser()
    if options.variant != "cyclegan":
        return _enlarging(options.variant, source)
    if source is None:
        raise ExportError(
            "cyclegan: --source is missing; there are no weights to download",
            hint="train one (docs/pictures.md) and give it: --source generator.keras, apple2orange.pb or a SavedModel",
        )
    if is_tf1_graph(source):
        return _wrapped(_with_known_nodes(source), source)
    found = network_file.read(source)
    if any(spec.dtype == "string" for spec in found.network.inputs.values()):
        return _wrapped(found, source)
    preprocessing = ImagePreprocessing(_SIDE, _SIDE, mean=(127.5,) * 3, std=(127.5,) * 3)
    network, output = of_images(found, preprocessing), chosen_output(found, None)
    return image_to_image(
        network=Network(lambda images: network.function(images=images)[output], network.inputs),
        preprocessing=preprocessing,
        values=Values(black=-1.0, white=1.0),
        samples=_samples(),
        source=Source(source.name, found.files, ("keras",), licence="NOASSERTION"),
    )


def _enlarging(variant: str, source: Path | None) -> Model:
    package = NpmPackage("@upscalerjs/esrgan-slim", "1.0.0", _ESRGAN[variant])
    path = source or npm_files(package)[f"models/{variant}/model.json"]
    found = tfjs_layers_network(path)
    return image_to_image(
        network=Network(lambda images: found.network.function(images=images)["output"], found.network.inputs),
        preprocessing=OwnSize(std=(1.0, 1.0, 1.0), max_pixels=_LARGEST),
        values=Values(black=0.0, white=255.0),
        # Small ones: to enlarge a photograph of 600 x 400 takes seconds.
        samples={name: scaled_png(data, (96, 64)) for name, data in _samples().items()},
        source=Source(str(package) if source is None else path.name, found.files),
    )


def _wrapped(found: NetworkFile, source: Path) -> Model:
    if len(found.network.inputs) != 1 or len(found.outputs) != 1:
        names = f"inputs {', '.join(found.network.inputs)}; outputs {', '.join(found.outputs)}"
        raise ExportError(f"{source.name}: one input and one output are expected, it has {names}")

    def function(**given: Any) -> Any:
        (answer,) = found.network.function(**given).values()
        return answer

    network = Network(function, found.network.inputs)
    where = Source(source.name, found.files, licence="NOASSERTION")
    return wrapped_graph(network=network, samples=_samples(), source=where)


def _with_known_nodes(source: Path) -> NetworkFile:
    """The first pair of node names that the graph has; the first one's error where it has none."""
    errors: list[NoSuchNode] = []
    for entry, exit_ in _NODES:
        try:
            return tf1_network(source, inputs={entry: entry}, outputs={exit_: exit_})
        except NoSuchNode as error:
            errors.append(error)
    raise errors[0]


def _samples() -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sample_photographs()}
