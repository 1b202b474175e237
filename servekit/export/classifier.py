"""Image classifiers: from a network, its preprocessing and its labels to signatures, parity checks and warmup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servekit.export.preprocessing import ImagePreprocessing, reference_input
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


def image_classifier(
    *,
    network: Network,
    preprocessing: ImagePreprocessing,
    labels: Sequence[str],
    samples: Sequence[Path],
    source: Source,
    top: int = 5,
    model_limit: float = 1e-4,
) -> Model:
    """`network` has one input (float32 [batch, height, width, 3]) and one output (logits, float32 [batch, classes]).

    Signatures: `serving_default` (image_bytes: string [batch] → labels, probabilities, class_ids [batch, top] and
    valid [batch]), `serving_base64url` (the same for URL-safe base64), `tensor` (images → logits, probabilities) and
    `classify` (tf.Example with `image/encoded`). `samples` are image files on which the export is held to Pillow and to
    the network as written; the first is also the warmup's.
    """
    (pixels,) = network.inputs
    contents = {path.name: path.read_bytes() for path in samples}

    def checks(reference: Reference) -> list[Check]:
        return _checks(reference, contents, pixels, preprocessing, top, model_limit)

    first = next(iter(contents.values()))
    image = reference_input(first, preprocessing)[None]
    return Model(
        signatures=_signatures(network, preprocessing, labels, top),
        network=network,
        source=source,
        checks=checks,
        warmup={
            "serving_default": {"image_bytes": strings(first)},
            "tensor": {"images": image},
            "classify": {"inputs": strings(example(image__encoded=first))},
        },
    )


def _signatures(
    network: Network, preprocessing: ImagePreprocessing, labels: Sequence[str], top: int
) -> dict[str, Signature]:
    (pixels,) = network.inputs

    def best(network: Any, data: Any, read: Any) -> tuple[Any, ...]:
        import tensorflow as tf

        from servekit.export.image_graph import isolated, preprocess

        images, valid = isolated(lambda item: preprocess(read(item), preprocessing), data, preprocessing.shape)
        images = tf.identity(images, name="preprocessed")
        values, ids = tf.math.top_k(tf.nn.softmax(network(**{pixels: images})), top)
        texts, item = tf.gather(tf.constant(list(labels)), ids), valid[:, None]
        answers = tf.where(item, texts, ""), tf.where(item, values, 0.0), tf.where(item, ids, NO_CLASS), valid
        count = tf.size(data)
        return tuple(answer[:count] for answer in answers)

    def predict(network: Any, data: Any, read: Any) -> dict[str, Any]:
        names = ("labels", "probabilities", "class_ids", "valid")
        return dict(zip(names, best(network, data, read), strict=True))

    def serving_default(network: Any, image_bytes: Any) -> dict[str, Any]:
        return predict(network, image_bytes, lambda item: item)

    def serving_base64url(network: Any, image_base64url: Any) -> dict[str, Any]:
        import tensorflow as tf

        return predict(network, image_base64url, tf.io.decode_base64)

    def tensor(network: Any, images: Any) -> dict[str, Any]:
        import tensorflow as tf

        logits = network(**{pixels: images})
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def classify(network: Any, inputs: Any) -> dict[str, Any]:
        import tensorflow as tf

        def encoded(item: Any) -> Any:
            features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
            return tf.io.parse_single_example(item, features)["image/encoded"]

        classes, scores, _, _ = best(network, inputs, encoded)
        return {"classes": classes, "scores": scores}

    return {
        "serving_default": Signature(serving_default, {"image_bytes": BYTES}),
        "serving_base64url": Signature(serving_base64url, {"image_base64url": BYTES}),
        "tensor": Signature(tensor, {"images": network.inputs[pixels]}),
        "classify": Signature(classify, {"inputs": BYTES}, method="classify", features=("image/encoded",)),
    }


def _checks(
    reference: Reference,
    contents: Mapping[str, bytes],
    pixels: str,
    preprocessing: ImagePreprocessing,
    top: int,
    model_limit: float,
) -> list[Check]:
    data = strings(*contents.values())
    images = np.stack([reference_input(item, preprocessing) for item in contents.values()])
    (logits,) = reference({pixels: images}).values()
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")
    from_bytes: dict[str, Array] = {"image_bytes": data}
    return [
        Check(
            name="preprocessing against Pillow",
            signature="serving_default",
            inputs=from_bytes,
            output="serving_default/preprocessed:0",
            expected=images,
            limit=Limit(max_abs=1.01, mean_abs=0.01),
            unit="grey levels",
            scale=max(preprocessing.std),
        ),
        Check(
            name="logits against the network as written",
            signature="tensor",
            inputs={"images": images},
            output="logits",
            expected=logits,
            limit=Limit(max_abs=model_limit),
        ),
        Check(
            name="bytes to probability, whole chain",
            signature="serving_default",
            inputs=from_bytes,
            output="probabilities",
            expected=np.take_along_axis(probabilities, best[:, :top], axis=1),
            limit=Limit(max_abs=0.005),
        ),
        Check(
            name="top-1 agreement",
            signature="serving_default",
            inputs=from_bytes,
            output="class_ids",
            expected=best[:, :1].astype(np.int32),
            limit=Limit(agreement=1.0),
        ),
    ]
