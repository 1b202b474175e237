"""Image bytes in, image bytes out: style transfer, enlarging, colouring, edges.

Networks that take and give numbers get decoding and a PNG around them (`image_to_image`); TF1 graphs that take or give
encoded images themselves are called for one image at a time (`wrapped_graph`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.base64url import with_base64url
from servekit.export.preprocessing import (
    DEFAULT_MAX_PIXELS,
    Channels,
    ImagePreprocessing,
    reference_input,
    reference_rgb,
)
from servekit.export.recipe import Array, Check, Limit, Model, Network, Reference, Signature, Source, Spec, strings
from servekit.model_spec import DEFAULT_SIGNATURE

BYTES = Spec("string", (None,))
TENSOR_SIGNATURE = "tensor"
SIDES = (256, 128, 64, 512)
"""Image sizes that are tried on a graph which says nothing of what it takes; CycleGAN's own comes first."""


@dataclass(frozen=True, slots=True)
class OwnSize:
    """bytes → RGB uint8 → (pixel - mean) / std: float32 [rows, columns, 3] of the image's own size.

    `mean` and `std` are in grey levels. Images go through the network one by one, since a batch of several sizes is no
    tensor. `max_pixels`: what a network needs grows with the image, so it wants a limit of its own.
    """

    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (255.0, 255.0, 255.0)
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def shape(self) -> tuple[None, None, int]:
        return (None, None, 3)


@dataclass(frozen=True, slots=True)
class Values:
    """What in a network's output is black, and what white; beyond them is cut off."""

    black: float
    white: float


def image_to_image(
    *,
    network: Network,
    preprocessing: ImagePreprocessing | OwnSize,
    values: Values,
    samples: Mapping[str, bytes],
    source: Source,
) -> Model:
    """`network`: images float32 [batch, rows, columns, 3] → one output float32 [batch, rows', columns', 1 or 3].

    Signatures: `serving_default` (input_bytes: string [batch] → output_bytes: string [batch], PNG; height, width: int32
    [batch], of the output; valid: bool [batch]), `serving_base64url` (the same for URL-safe base64) and `tensor`
    (images, preprocessed → output, in the network's own values). `samples`: image files by name, on which the export is
    compared with Pillow and the network as written.
    """
    if list(network.inputs) != ["images"]:
        raise ExportError(f"the network's only input must be `images`, not {', '.join(network.inputs)}")
    first = _first(samples)

    def serving_default(network: Any, input_bytes: Any) -> Mapping[str, Any]:
        from servekit.export.image_to_image_graph import translate_files

        return translate_files(network, input_bytes, preprocessing, values)

    def tensor(network: Any, images: Any) -> Mapping[str, Any]:
        return {"output": network(images=images)}

    def checks(reference: Reference) -> list[Check]:
        return _checks(reference, samples, preprocessing, values)

    model = Model(
        signatures={
            DEFAULT_SIGNATURE: Signature(serving_default, {"input_bytes": BYTES}),
            TENSOR_SIGNATURE: Signature(tensor, {"images": Spec("float32", (None, *preprocessing.shape))}),
        },
        network=network,
        source=source,
        checks=checks,
        warmup={
            DEFAULT_SIGNATURE: {"input_bytes": strings(first)},
            TENSOR_SIGNATURE: {"images": _input(first, preprocessing)[None]},
        },
        batched=isinstance(preprocessing, ImagePreprocessing),
    )
    return with_base64url(model)


def _checks(
    reference: Reference, samples: Mapping[str, bytes], how: ImagePreprocessing | OwnSize, values: Values
) -> list[Check]:
    checks: list[Check] = []
    fixed = isinstance(how, ImagePreprocessing)
    if isinstance(how, ImagePreprocessing):
        checks.append(
            Check(
                name="preprocessing against Pillow",
                signature=DEFAULT_SIGNATURE,
                inputs={"input_bytes": strings(*samples.values())},
                output=f"{DEFAULT_SIGNATURE}/preprocessed:0",
                expected=np.stack([reference_input(data, how) for data in samples.values()]),
                limit=Limit(max_abs=1.01, mean_abs=0.01),
                unit="grey levels",
                scale=max(how.std),
            )
        )
    for index, (name, data) in enumerate(samples.items()):
        images = _input(data, how)[None]
        (output,) = reference({"images": images}).values()
        if output.ndim != 4 or len(output) != 1 or output.shape[3] not in (1, 3):
            raise ExportError(f"the network gives {list(output.shape)}, not images [batch, rows, columns, 1 or 3]")
        if index == 0:
            limit = Limit(max_abs=1e-4 * max(1.0, float(np.abs(output).max())))
            asked = {"images": images}
            checks.append(
                Check("output against the network as written", TENSOR_SIGNATURE, asked, "output", output, limit)
            )
        checks.append(
            Check(
                name=f"picture of {name}, whole chain",
                signature=DEFAULT_SIGNATURE,
                inputs={"input_bytes": strings(data)},
                output="output_bytes",
                expected=reference_picture(output, values),
                # Where images are resized, single grey levels differ, and a network may make more of them.
                limit=Limit(mean_abs=0.5) if fixed else Limit(max_abs=1, mean_abs=0.05),
                unit="grey levels",
                images=True,
            )
        )
    return checks


def _input(data: bytes, how: ImagePreprocessing | OwnSize) -> Array:
    if isinstance(how, ImagePreprocessing):
        return reference_input(data, how)
    mean, std = (np.array(channels, np.float32) for channels in (how.mean, how.std))
    image: Array = (reference_rgb(data).astype(np.float32) - mean) / std
    return image


def reference_picture(output: Array, values: Values) -> Array:
    """A network's output as grey levels: uint8 [batch, rows, columns, 3], or [batch, rows, columns] for one channel."""
    levels = (output - values.black) * (255.0 / (values.white - values.black))
    pixels = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _first(samples: Mapping[str, bytes]) -> bytes:
    if not samples:
        raise ExportError("samples: at least one image is needed, to compare with the reference and to warm up")
    return next(iter(samples.values()))


def wrapped_graph(*, network: Network, samples: Mapping[str, bytes], source: Source) -> Model:
    """A TF1 graph for one image, called for each of a batch: what it was frozen for, and batches and isolation around.

    `network` has one input and one output: an encoded image (string []) to an encoded image (string [] or [1]), or
    pixels in [-1, 1] (float32 [side, side, 3]) to one. The answer's format is the graph's own. A graph that takes
    encoded images takes them as it was frozen to, often of one size only.

    Signatures: `serving_default` (input_bytes: string [batch] → output_bytes: string [batch], valid: bool [batch]) and
    `serving_base64url` (the same for URL-safe base64).
    """
    ((entry, spec),) = network.inputs.items()
    _first(samples)
    if spec.dtype == "string":
        how, files = None, _of_a_size_it_takes(network, samples)
    else:
        if spec.dtype != "float32" or len(spec.shape) != 3 or None in spec.shape or spec.shape[2] != 3:
            raise ExportError(
                f"input {entry} is {spec.dtype} {list(spec.shape)}, not string [] or float32 [side, side, 3]"
            )
        height, width = (size or 0 for size in spec.shape[:2])
        how, files = ImagePreprocessing(height, width, mean=(127.5,) * 3, std=(127.5,) * 3), dict(samples)

    def serving_default(network: Any, input_bytes: Any) -> Mapping[str, Any]:
        from servekit.export.image_to_image_graph import call_for_each

        return call_for_each(network, entry, spec.shape, input_bytes, how)

    def checks(reference: Reference) -> list[Check]:
        return [
            Check(
                name=f"picture of {name}, against the graph as frozen",
                signature=DEFAULT_SIGNATURE,
                inputs={"input_bytes": strings(data)},
                output="output_bytes",
                expected=_pixels(_answer(reference, entry, spec, data, how))[None],
                limit=Limit(max_abs=1) if how is None else Limit(mean_abs=0.5),
                unit="grey levels",
                images=True,
            )
            for name, data in files.items()
        ]

    model = Model(
        signatures={DEFAULT_SIGNATURE: Signature(serving_default, {"input_bytes": BYTES})},
        network=network,
        source=source,
        checks=checks,
        warmup={DEFAULT_SIGNATURE: {"input_bytes": strings(next(iter(files.values())))}},
        batched=False,
    )
    return with_base64url(model)


def _answer(reference: Reference, entry: str, spec: Spec, data: bytes, how: ImagePreprocessing | None) -> bytes:
    """Of the graph itself for one file."""
    if how is not None:
        value: Array = reference_input(data, how)
    else:
        value = strings(data).reshape((1,) * len(spec.shape))
    (answer,) = reference({entry: value}).values()
    encoded: bytes = np.asarray(answer).reshape(-1)[0]
    return encoded


def _of_a_size_it_takes(network: Network, samples: Mapping[str, bytes]) -> dict[str, bytes]:
    """The samples as they are, or scaled to the first of SIDES that the graph answers for."""
    from servekit.export import graph

    ((entry, spec),) = network.inputs.items()
    traced = graph.trace(network)
    reason = ""
    for side in (None, *SIDES):
        files = {name: data if side is None else square_png(data, side) for name, data in samples.items()}
        try:
            for data in files.values():
                _answer(lambda inputs: graph.run_once(traced, inputs), entry, spec, data, None)
        except Exception as error:  # noqa: BLE001  TensorFlow's, of many types: this size is not for this graph
            reason = reason or " ".join(str(error).split())[:300]
        else:
            return files
    shown = ", ".join(map(str, SIDES))
    raise ExportError(f"the graph answers for none of the samples, nor for squares of {shown} pixels: {reason}")


def square_png(data: bytes, side: int) -> bytes:
    """The image squeezed to a square, as PNG."""
    return scaled_png(data, (side, side))


def scaled_png(data: bytes, size: tuple[int, int]) -> bytes:
    """The image at `size` (width, height), as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(reference_rgb(data)).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def _pixels(encoded: bytes) -> Array:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return np.asarray(file)
    except OSError as error:
        raise ExportError("the graph's answer is no image file") from error
