"""Image classifiers: from a network, its preprocessing and its labels to signatures, parity checks and warmup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.base64url import with_base64url
from servekit.export.preprocessing import ImagePreprocessing, enlarged, reference_input
from servekit.export.recipe import (
    Array,
    Check,
    Limit,
    Model,
    Network,
    Reference,
    Signature,
    Source,
    Spec,
    example,
    strings,
)

BYTES = Spec("string", (None,))
NO_CLASS = -1
"""class_ids of an item that is no image; its labels are empty and its probabilities 0."""


@dataclass(frozen=True, slots=True)
class Names:
    """Of the signatures that take an image file's bytes and a preprocessed tensor."""

    from_bytes: str = "serving_default"
    from_tensor: str = "tensor"


DEFAULT_NAMES = Names()


def image_classifier(
    *,
    network: Network,
    preprocessing: ImagePreprocessing,
    labels: Sequence[str],
    samples: Sequence[Path],
    source: Source,
    top: int = 5,
    model_limit: float = 1e-4,
    names: Names = DEFAULT_NAMES,
    best: bool = False,
) -> Model:
    """`network` has one input (float32 [batch, height, width, 3]) and one output (logits, float32 [batch, classes]).

    Signatures: `serving_default` (image_bytes: string [batch] → labels, probabilities, class_ids [batch, top] and
    valid [batch]), `serving_base64url` (the same for URL-safe base64), `tensor` (images → logits, probabilities) and
    `classify` (tf.Example with `image/encoded`). `samples` are image files on which the export is held to Pillow and to
    the network as written; the first is also the warmup's. `best` adds the outputs label and confidence [batch]: the
    first of labels and probabilities, for clients that want one answer.
    """
    _refuse_bad_labels(labels)
    (pixels,) = network.inputs
    contents = {path.name: path.read_bytes() for path in samples}
    if not contents:
        raise ExportError("samples: at least one image is needed, to compare with the reference and to warm up")
    if preprocessing.scaled_jpeg:
        contents |= {f"{name}, large": enlarged(data, preprocessing) for name, data in contents.items()}

    def with_scaled_jpeg() -> Model:
        return image_classifier(
            network=network,
            preprocessing=replace(preprocessing, scaled_jpeg=True),
            labels=labels,
            samples=samples,
            source=source,
            top=top,
            model_limit=model_limit,
            names=names,
            best=best,
        )

    top = min(top, len(labels))

    def checks(reference: Reference) -> list[Check]:
        return _checks(reference, contents, pixels, preprocessing, labels, top, model_limit, names)

    first = next(iter(contents.values()))
    image = reference_input(first, preprocessing)[None]
    model = Model(
        signatures=_signatures(network, preprocessing, labels, top, names, best),
        network=network,
        source=source,
        checks=checks,
        warmup={
            names.from_bytes: {"image_bytes": strings(first)},
            names.from_tensor: {"images": image},
            "classify": {"inputs": strings(example(image__encoded=first))},
        },
        scaled_jpeg=with_scaled_jpeg,
    )
    return with_base64url(model, names.from_bytes)


def _refuse_bad_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, (str, bytes)):
        raise ExportError("labels: a list of names is expected, not one text")
    for index, label in enumerate(labels):
        try:
            label.encode()
        except (AttributeError, UnicodeEncodeError):
            raise ExportError(
                f"labels: number {index} is {label!r}, not text that can be written as UTF-8",
                hint="a file of labels in another encoding: Path(...).read_text(encoding='latin-1')",
            ) from None


def _signatures(
    network: Network,
    preprocessing: ImagePreprocessing,
    labels: Sequence[str],
    top: int,
    names: Names,
    best: bool,
) -> dict[str, Signature]:
    (pixels,) = network.inputs

    def top_classes(network: Any, data: Any) -> tuple[Any, ...]:
        import tensorflow as tf

        from servekit.export.image_graph import preprocess

        images, valid = preprocess(data, preprocessing)
        images = tf.identity(images, name="preprocessed")
        values, ids = tf.math.top_k(tf.nn.softmax(network(**{pixels: images})), top)
        texts, item = tf.gather(tf.constant(list(labels)), ids), valid[:, None]
        answers = tf.where(item, texts, ""), tf.where(item, values, 0.0), tf.where(item, ids, NO_CLASS), valid
        count = tf.size(data)
        return tuple(answer[:count] for answer in answers)

    def from_bytes(network: Any, image_bytes: Any) -> dict[str, Any]:
        texts, values, ids, valid = top_classes(network, image_bytes)
        answer = {"labels": texts, "probabilities": values, "class_ids": ids, "valid": valid}
        return {**answer, "label": texts[:, 0], "confidence": values[:, 0]} if best else answer

    def tensor(network: Any, images: Any) -> dict[str, Any]:
        import tensorflow as tf

        from servekit.export.image_graph import at_least_one_row

        logits = network(**{pixels: at_least_one_row(images)})[: tf.shape(images)[0]]
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def classify(network: Any, inputs: Any) -> dict[str, Any]:
        import tensorflow as tf

        from servekit.export.image_graph import extracted

        def encoded(item: Any) -> Any:
            features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
            return tf.io.parse_single_example(item, features)["image/encoded"]

        classes, scores, _, _ = top_classes(network, extracted(encoded, inputs))
        return {"classes": classes, "scores": scores}

    return {
        names.from_bytes: Signature(from_bytes, {"image_bytes": BYTES}),
        names.from_tensor: Signature(tensor, {"images": network.inputs[pixels]}),
        "classify": Signature(classify, {"inputs": BYTES}, method="classify", features=("image/encoded",)),
    }


def _checks(
    reference: Reference,
    contents: Mapping[str, bytes],
    pixels: str,
    preprocessing: ImagePreprocessing,
    labels: Sequence[str],
    top: int,
    model_limit: float,
    names: Names,
) -> list[Check]:
    data = strings(*contents.values())
    images = np.stack([reference_input(item, preprocessing) for item in contents.values()])
    (logits,) = reference({pixels: images}).values()
    if logits.ndim != 2 or len(logits) != len(images):
        raise ExportError(f"the network gives logits of the shape {list(logits.shape)} for {len(images)} images")
    if logits.shape[1] != len(labels):
        raise ExportError(f"the network gives {logits.shape[1]} classes, but there are {len(labels)} labels")
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")
    from_bytes: dict[str, Array] = {"image_bytes": data}
    return [
        Check(
            name="preprocessing against Pillow",
            signature=names.from_bytes,
            inputs=from_bytes,
            output=f"{names.from_bytes}/preprocessed:0",
            expected=images,
            limit=Limit(mean_abs=1.0) if preprocessing.scaled_jpeg else Limit(max_abs=1.01, mean_abs=0.01),
            unit="grey levels",
            scale=max(preprocessing.std),
        ),
        Check(
            name="logits against the network as written",
            signature=names.from_tensor,
            inputs={"images": images},
            output="logits",
            expected=logits,
            limit=Limit(max_abs=model_limit),
            reduced=Limit(max_abs=0.1 * float(np.abs(logits).max())),
        ),
        Check(
            name="bytes to probability, whole chain",
            signature=names.from_bytes,
            inputs=from_bytes,
            output="probabilities",
            expected=np.take_along_axis(probabilities, best[:, :top], axis=1),
            limit=Limit(max_abs=0.05 if preprocessing.scaled_jpeg else 0.005),
            reduced=Limit(max_abs=0.05),
        ),
        Check(
            name="top-1 agreement",
            signature=names.from_bytes,
            inputs=from_bytes,
            output="class_ids",
            expected=best[:, :1].astype(np.int32),
            limit=Limit(agreement=1.0),
        ),
    ]
