"""Which pixel shows what: a person in front of a camera, or DeepLab's classes.

    servekit export segmentation --version 1                                 person or background, downloaded (npm)
    servekit export segmentation --version 2 --source deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz
    servekit export segmentation --version 3 --source deeplabv3_mnv2_cityscapes_train_2018_02_05.tar.gz
    servekit export segmentation --version 2 --source frozen_inference_graph.pb

DeepLab (Chen et al., arXiv:1802.02611) is taken as its authors release it: a frozen TF1 graph that takes one uint8
image `ImageTensor`, its longer side 513 pixels, and gives `SemanticPredictions`; or the same as a SavedModel folder.
The person network is MediaPipe's selfie segmentation, rebuilt from its TFLite file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export import network_file
from servekit.export.network_file import NetworkFile
from servekit.export.npm_package import NpmPackage, npm_files
from servekit.export.own_model import sample_photographs
from servekit.export.palette import cityscapes_palette, voc_palette
from servekit.export.preprocessing import ImagePreprocessing, reference_input
from servekit.export.recipe import Check, Limit, Model, Network, Options, Recipe, Reference, Source, Spec, Variant
from servekit.export.segmentation import TENSOR_SIGNATURE, LongerSide, image_segmenter
from servekit.export.tf1_graph import is_tf1_graph, tf1_network
from servekit.export.tflite import tflite_network
from servekit.export.tflite_interpreter import interpreted

RECIPE = Recipe(
    title="Semantic segmentation",
    licence="Apache-2.0",
    url="https://github.com/tensorflow/models/tree/master/research/deeplab",
    variants=(
        Variant("selfie", "MediaPipe selfie segmentation, 256 px: person or background", version=1),
        Variant("pascal", "DeepLab, PASCAL VOC 2012, 21 classes; needs --source", version=2),
        Variant("cityscapes", "DeepLab, Cityscapes, 19 classes; needs --source", version=3),
    ),
    source="a DeepLab release (.tar.gz, .pb) or SavedModel folder; for selfie a .tflite file (default: download)",
)

_SELFIE = NpmPackage(
    "@mediapipe/selfie_segmentation",
    "0.1.1675465747",
    {"selfie_segmentation.tflite": "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27"},
)
_SELFIE_INPUT = ImagePreprocessing(256, 256, "bilinear", std=(255.0, 255.0, 255.0))
_DEEPLAB_INPUT = LongerSide(513)
_DEEPLAB_NODES = ("ImageTensor", "SemanticPredictions")


@dataclass(frozen=True, slots=True)
class _Dataset:
    labels: Sequence[str]
    palette: bytes


_DATASETS = {
    "pascal": _Dataset(
        (
            *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
            *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
            "tvmonitor",
        ),
        voc_palette(),
    ),
    "cityscapes": _Dataset(
        (
            *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
            *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        ),
        cityscapes_palette(),
    ),
}


def build(options: Options) -> Model:
    source = None if options.source is None else Path(options.source).expanduser()
    return _selfie(source) if options.variant == "selfie" else _deeplab(options.variant, source)


def _selfie(source: Path | None) -> Model:
    path = source or next(iter(npm_files(_SELFIE).values()))
    found = tflite_network(path)
    (entry,), (exit_,) = found.network.inputs, found.outputs
    samples = sample_photographs()

    def probability(images: Any) -> Any:
        return found.network.function(**{entry: images})[exit_]

    model = image_segmenter(
        network=Network(probability, {"images": found.network.inputs[entry]}),
        preprocessing=_SELFIE_INPUT,
        labels=["background", "person"],
        samples=samples,
        source=Source(str(_SELFIE) if source is None else path.name, [path]),
    )

    def checks(reference: Reference) -> list[Check]:
        images = np.stack([reference_input(sample.read_bytes(), _SELFIE_INPUT) for sample in samples])
        lite = Check(
            name="scores against TensorFlow Lite",
            signature=TENSOR_SIGNATURE,
            inputs={"images": images},
            output="scores",
            expected=interpreted(path, images),
            limit=Limit(max_abs=1e-3),
        )
        return [*model.checks(reference), lite]

    return replace(model, checks=checks)


def _deeplab(variant: str, source: Path | None) -> Model:
    if source is None:
        raise ExportError(
            f"{variant}: --source is missing; DeepLab's releases are not downloaded by themselves",
            hint="download one (docs/exporting.md) and give it: --source deeplabv3_....tar.gz",
        )
    found = _read_deeplab(source)
    (entry,), (exit_,) = found.network.inputs, found.outputs
    spec = found.network.inputs[entry]
    if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[3] != 3 or spec.shape[0] not in (1, None):
        raise ExportError(
            f"{source.name}: its input {entry} is {spec.dtype} {list(spec.shape)}, not uint8 [1, ?, ?, 3]"
        )
    dataset = _DATASETS[variant]
    return image_segmenter(
        network=Network(
            lambda images: found.network.function(**{entry: images})[exit_],
            {"images": Spec("uint8", (1, None, None, 3))},
        ),
        preprocessing=_DEEPLAB_INPUT,
        labels=dataset.labels,
        palette=dataset.palette,
        samples=sample_photographs(),
        source=Source(source.name, found.files),
    )


def _read_deeplab(source: Path) -> NetworkFile:
    entry, exit_ = _DEEPLAB_NODES
    if source.is_dir():
        found = network_file.read(source)
        if len(found.network.inputs) != 1 or len(found.outputs) != 1:
            names = f"inputs {', '.join(found.network.inputs)}; outputs {', '.join(found.outputs)}"
            raise ExportError(f"{source.name}: one input and one output are expected, its signature has {names}")
        return found
    if not is_tf1_graph(source):
        raise ExportError(f"{source.name}: neither a DeepLab release (.tar.gz, .pb) nor a SavedModel folder")
    return tf1_network(source, inputs={entry: entry}, outputs={exit_: exit_})
