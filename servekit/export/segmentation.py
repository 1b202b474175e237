"""Image bytes in, the class of every pixel out: as a mask file, as a class map, and how much each class covers.

Networks come in two kinds. Most take float images of one fixed size, a batch at once: `ImagePreprocessing`. DeepLab's
frozen graphs take one uint8 image of any size up to their own, which the caller scales first: `LongerSide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from servekit.errors import ExportError
from servekit.export.base64url import with_base64url
from servekit.export.palette import COLOURS, voc_palette
from servekit.export.preprocessing import DEFAULT_MAX_PIXELS, ImagePreprocessing, reference_input, reference_rgb
from servekit.export.recipe import Array, Check, Limit, Model, Network, Reference, Signature, Source, Spec, strings
from servekit.model_spec import DEFAULT_SIGNATURE

NO_CLASS = 255
"""Pixels outside an image, in the maps of a batch of several sizes. As in PASCAL VOC and Cityscapes."""
SEED_SIGNATURE = "predict_images"
TENSOR_SIGNATURE = "tensor"
BYTES = Spec("string", (None,))


@dataclass(frozen=True, slots=True)
class LongerSide:
    """bytes → RGB uint8 → the longer side scaled to `pixels` (also up): uint8 [height, width, 3].

    The default filter is the one of DeepLab's own demonstration (Pillow's LANCZOS, formerly called ANTIALIAS).
    """

    pixels: int
    resize: Literal["bilinear", "bicubic", "lanczos3"] = "lanczos3"
    max_pixels: int = DEFAULT_MAX_PIXELS

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the scaled image. Rounded down as DeepLab's demonstration does, never to nothing.

        >>> LongerSide(513).size(300, 451)
        (341, 513)
        """
        ratio = self.pixels / max(height, width)
        return max(1, int(ratio * height)), max(1, int(ratio * width))


def image_segmenter(
    *,
    network: Network,
    preprocessing: ImagePreprocessing | LongerSide,
    labels: Sequence[str],
    samples: Sequence[Path],
    source: Source,
    palette: bytes | None = None,
    top: int = 5,
) -> Model:
    """`network` has one input, `images`, and one output: scores, a probability or class ids (`mask_graph.class_ids`).

    With ImagePreprocessing it takes float32 [batch, height, width, 3], with LongerSide uint8 [1, height, width, 3].

    Signatures: `serving_default` (image_bytes: string [batch] → mask_bytes: string [batch], PNGs of the images' own
    sizes with a palette; class_map: uint8 [batch, rows, columns], the whole image squeezed to the network's size;
    labels, shares, class_ids [batch, top], what covers most first; height, width: int32 [batch]; valid: bool [batch]),
    `serving_base64url` (the same for URL-safe base64) and `predict_images` (images: float32 [batch, rows, columns, 3]
    in grey levels, height and width: int32 [batch] → segmentation_map: int64 [batch, rows, columns], 255 outside height
    and width); with ImagePreprocessing also `tensor` (images, preprocessed → scores). `palette`: 256 colours, PASCAL
    VOC's unless given.
    """
    if list(network.inputs) != ["images"]:
        raise ExportError(f"the network's only input must be `images`, not {', '.join(network.inputs)}")
    if len(labels) >= COLOURS:
        raise ExportError(f"{len(labels)} labels: a mask has at most {COLOURS - 1} classes")
    if isinstance(preprocessing, ImagePreprocessing) and preprocessing.crop is not None:
        raise ExportError("preprocessing with a crop leaves pixels without a class: crop=None is needed")
    if not samples:
        raise ExportError("samples: at least one image is needed, to compare with the reference and to warm up")
    contents = {path.name: path.read_bytes() for path in samples}
    colours = palette or voc_palette()
    top = min(top, len(labels))

    def serving_default(network: Any, image_bytes: Any) -> dict[str, Any]:
        from servekit.export.segmentation_graph import segment_files

        found = segment_files(network, image_bytes, preprocessing, len(labels), colours)
        return found.outputs(list(labels), top)

    def predict_images(network: Any, images: Any, height: Any, width: Any) -> dict[str, Any]:
        from servekit.export.segmentation_graph import segment_images

        return {"segmentation_map": segment_images(network, images, height, width, preprocessing)}

    def tensor(network: Any, images: Any) -> dict[str, Any]:
        return {"scores": network(images=images)}

    grey_levels, one_number = Spec("float32", (None, None, None, 3)), Spec("int32", (None,))
    signatures = {
        DEFAULT_SIGNATURE: Signature(serving_default, {"image_bytes": BYTES}),
        SEED_SIGNATURE: Signature(predict_images, {"images": grey_levels, "height": one_number, "width": one_number}),
    }
    first = next(iter(contents.values()))
    warmup = {DEFAULT_SIGNATURE: {"image_bytes": strings(first)}}
    if isinstance(preprocessing, ImagePreprocessing):
        signatures[TENSOR_SIGNATURE] = Signature(tensor, network.inputs)
        warmup[SEED_SIGNATURE] = _as_images(reference_rgb(first)[:64, :64])
        warmup[TENSOR_SIGNATURE] = {"images": reference_input(first, preprocessing)[None]}

    def checks(reference: Reference) -> list[Check]:
        if isinstance(preprocessing, ImagePreprocessing):
            return _checks_of_fixed_size(reference, contents, preprocessing)
        return _checks_of_any_size(reference, contents, preprocessing)

    model = Model(
        signatures=signatures,
        network=network,
        source=source,
        checks=checks,
        # One image at a time takes DeepLab up to seconds; nobody should wait for that more than once at every load.
        warmup=warmup,
        batched=isinstance(preprocessing, ImagePreprocessing),
    )
    return with_base64url(model)


def _as_images(image: Array) -> dict[str, Array]:
    """uint8 [height, width, 3] as the inputs of `predict_images`."""
    height, width, _ = image.shape
    sizes = {"height": np.array([height], np.int32), "width": np.array([width], np.int32)}
    return {"images": image[None].astype(np.float32), **sizes}


def _checks_of_fixed_size(reference: Reference, contents: dict[str, bytes], how: ImagePreprocessing) -> list[Check]:
    images = np.stack([reference_input(data, how) for data in contents.values()])
    (scores,) = reference({"images": images}).values()
    if scores.ndim not in (3, 4) or len(scores) != len(images):
        raise ExportError(f"the network gives {list(scores.shape)} for {len(images)} images, no map for each of them")
    is_score = scores.dtype.kind == "f"
    limit = Limit(max_abs=1e-4 * max(1.0, float(np.abs(scores).max()))) if is_score else Limit(agreement=0.999)
    return [
        Check(
            name="preprocessing against Pillow",
            signature=DEFAULT_SIGNATURE,
            inputs={"image_bytes": strings(*contents.values())},
            output=f"{DEFAULT_SIGNATURE}/preprocessed:0",
            expected=images,
            limit=Limit(max_abs=1.01, mean_abs=0.01),
            unit="grey levels",
            scale=max(how.std),
        ),
        Check("scores against the network as written", TENSOR_SIGNATURE, {"images": images}, "scores", scores, limit),
        *(
            _mask_check(name, data, reference_mask(scores[index : index + 1], reference_rgb(data).shape[:2]))
            for index, (name, data) in enumerate(contents.items())
        ),
    ]


def _checks_of_any_size(reference: Reference, contents: dict[str, bytes], how: LongerSide) -> list[Check]:
    checks = []
    for index, (name, data) in enumerate(contents.items()):
        image = reference_rgb(data)
        scaled = scaled_by_pillow(image, how)
        (answer,) = reference({"images": scaled[None]}).values()
        ids = reference_class_ids(answer)
        if ids.shape != (1, *scaled.shape[:2]):
            raise ExportError(f"the network gives {list(answer.shape)} for an image {list(scaled.shape)}")
        if index == 0:
            asked, expected = _as_images(scaled), ids.astype(np.int64)
            title = "class map against the network as written"
            checks.append(Check(title, SEED_SIGNATURE, asked, "segmentation_map", expected, Limit(agreement=0.999)))
        checks.append(_mask_check(name, data, reference_mask(answer, image.shape[:2])))
    return checks


def _mask_check(name: str, data: bytes, expected: Array) -> Check:
    return Check(
        name=f"mask of {name}, whole chain",
        signature=DEFAULT_SIGNATURE,
        inputs={"image_bytes": strings(data)},
        output="mask_bytes",
        expected=expected[None],
        limit=Limit(agreement=0.99),  # borders move where a pixel's grey level does
        images=True,
    )


def scaled_by_pillow(image: Array, how: LongerSide) -> Array:
    """uint8 [height, width, 3] → uint8 [*how.size(height, width), 3]."""
    from PIL import Image

    height, width = how.size(*image.shape[:2])
    method = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos3": "LANCZOS"}[how.resize]
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[method]))


def reference_class_ids(answer: Array) -> Array:
    """`mask_graph.class_ids` with numpy: uint8 [batch, height, width]."""
    if answer.ndim == 4 and answer.shape[-1] == 1:
        answer = answer[..., 0]
    if answer.dtype.kind == "f":
        answer = answer.argmax(axis=-1) if answer.ndim == 4 else answer > 0.5
    return answer.astype(np.uint8)


def reference_mask(answer: Array, size: tuple[int, ...]) -> Array:
    """`mask_graph.full_size` with Pillow: uint8 [*size] from a network's answer for one image."""
    from PIL import Image

    height, width = size
    if answer.dtype.kind == "f" and (answer.ndim == 3 or answer.shape[-1] == 1):
        probability = Image.fromarray(answer.reshape(answer.shape[1:3]).astype(np.float32))
        return (np.asarray(probability.resize((width, height), Image.Resampling.BILINEAR)) > 0.5).astype(np.uint8)
    ids = Image.fromarray(reference_class_ids(answer)[0])
    return np.asarray(ids.resize((width, height), Image.Resampling.NEAREST))
