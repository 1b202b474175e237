"""ResNet50V2 and ResNet101V2, ImageNet-1k: two versions of one model.

    servekit export resnet --version 1                                 ResNet50V2, downloads Keras's weights (98 MB)
    servekit export resnet --version 2                                 ResNet101V2 (171 MB)
    servekit export resnet --version 1 --source resnet50v2.weights.h5  weights that are already here
    servekit export resnet --version 1 --source resnet_v2_50/          an unpacked SavedModel from TF Hub

Architecture: He et al., Identity Mappings in Deep Residual Networks (arXiv:1603.05027). Keras's weights take pixels in
[-1, 1] and know 1000 classes, TF Hub's take [0, 1] and have a class `background` in front.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from servekit.errors import ExportError
from servekit.export import network_file
from servekit.export.classifier import Names, image_classifier
from servekit.export.imagenet_labels import PACKAGE, imagenet_labels
from servekit.export.keras_settings import standard_layout
from servekit.export.network_file import NetworkFile
from servekit.export.own_model import chosen_output, logits_of, of_images, sample_photographs
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Model, Network, Options, Recipe, Source, Variant

RECIPE = Recipe(
    title="ResNet V2, ImageNet-1k",
    licence="MIT",
    url="https://keras.io/api/applications/resnet/",
    variants=(
        Variant("resnet50v2", "ResNet50V2, 224 px, 25.6 million weights, top-1 76.0 %", version=1),
        Variant("resnet101v2", "ResNet101V2, 224 px, 44.7 million weights, top-1 77.2 %", version=2),
    ),
    source="Keras weights or model (.weights.h5, .h5, .keras) or a TF Hub SavedModel folder (default: download)",
)

_SIZE = 224
_FUNCTIONS = {"resnet50v2": "ResNet50V2", "resnet101v2": "ResNet101V2"}
_KERAS = ImagePreprocessing(_SIZE, _SIZE, "bilinear", mean=(127.5,) * 3, std=(127.5,) * 3)
_TF_HUB = ImagePreprocessing(_SIZE, _SIZE, "bilinear", mean=(0.0,) * 3, std=(255.0,) * 3)


def build(options: Options) -> Model:
    path = None if options.source is None else Path(options.source).expanduser()
    name = _FUNCTIONS[options.variant]
    labels, labels_file = imagenet_labels()
    found = _keras_weights(name, path) if path is None or _is_weights(path) else network_file.read(path)
    output = chosen_output(found, None)
    network = of_images(found, _KERAS)
    classes, softmax = _classes(network, output)
    if classes not in (len(labels), len(labels) + 1):
        raise ExportError(f"the network has {classes} classes; 1000, or 1001 with a background class, are expected")
    tf_hub = classes > len(labels)
    model = image_classifier(
        network=logits_of(network, output, "probabilities" if softmax else "logits"),
        preprocessing=_TF_HUB if tf_hub else _KERAS,
        labels=["background", *labels] if tf_hub else labels,
        samples=sample_photographs(),
        source=Source(name if path is None else path.name, (*found.files, labels_file), ("keras", PACKAGE)),
        names=Names(from_bytes="serving_preprocess", from_tensor="serving_default"),
    )
    # Each signature costs a network of this size seconds at every load; the two that are used are warmed up.
    warm = {name: model.warmup[name] for name in ("serving_default", "serving_preprocess")}
    return replace(model, warmup=warm)


def _is_weights(path: Path) -> bool:
    """Whether an HDF5 file holds weights alone, as Keras's own downloads do."""
    if path.suffix not in (".h5", ".hdf5") or not path.is_file():
        return False
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path) as file:
            return "model_config" not in file.attrs
    except OSError as error:
        raise ExportError(f"{path.name}: not an HDF5 file") from error


def _keras_weights(name: str, path: Path | None) -> NetworkFile:
    """Keras's own architecture, with its published weights where `path` is None."""
    import keras

    standard_layout()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras tells of its downloads; stdout is for the result
            model = getattr(keras.applications, name)(weights=path or "imagenet", classifier_activation=None)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        if path is not None:
            raise ExportError(f"{path.name}: these are not {name}'s weights: {text}") from error
        raise ExportError(
            f"{name}: its weights cannot be downloaded: {text}",
            hint="download them elsewhere and give the file: --source PATH (Keras weights or a TF Hub SavedModel)",
        ) from error
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")  # where Keras keeps what it has downloaded
    files = [path] if path is not None else sorted(home.glob(f"models/{name.lower()}_weights_tf_dim*_kernels.h5"))
    return network_file.keras_network(model, files)


def _classes(network: Network, output: str) -> tuple[int, bool]:
    """How many classes `output` has, and whether a softmax has been applied: its rows are probabilities."""
    from servekit.export import graph

    images = np.random.default_rng(0).uniform(0, 1, (2, _SIZE, _SIZE, 3)).astype(np.float32)
    # As the export runs it: eager TensorFlow does not find the functions that a SavedModel's graph calls.
    values = graph.run_once(graph.trace(network), {"images": images})[output]
    if values.ndim != 2:
        raise ExportError(f"the network's output {output} has the shape {list(values.shape)}, not [batch, classes]")
    return values.shape[1], bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))
