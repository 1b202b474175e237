"""Image bytes in, a network's own outputs out: embeddings, scores, regressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.base64url import with_base64url
from servekit.export.preprocessing import ImagePreprocessing, reference_input
from servekit.export.recipe import Check, Limit, Model, Network, Reference, Signature, Source, Spec, strings


def image_features(
    *, network: Network, preprocessing: ImagePreprocessing, samples: Sequence[Path], source: Source
) -> Model:
    """`network` takes `images` (float32 [batch, height, width, 3]) and returns a dict of numbers [batch, ...].

    Signatures: `serving_default` (image_bytes: string [batch] → the network's outputs and valid: bool [batch]; rows of
    items that are no image are 0), `serving_base64url` (the same for URL-safe base64) and `tensor` (images → the
    network's outputs).
    """
    contents = [path.read_bytes() for path in samples]
    if not contents:
        raise ExportError("samples: at least one image is needed, to compare with the reference and to warm up")
    images = np.stack([reference_input(data, preprocessing) for data in contents])

    def serving_default(network: Any, image_bytes: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        from servekit.export.image_graph import preprocess

        pixels, valid = preprocess(image_bytes, preprocessing)
        count = tf.size(image_bytes)

        def cleared(value: Any) -> Any:
            rows = tf.reshape(valid, tf.concat([[-1], tf.ones([tf.rank(value) - 1], tf.int32)], 0))
            kept: Any = tf.where(rows, value, tf.zeros([], value.dtype))[:count]
            return tf.ensure_shape(kept, [None, *value.shape[1:]])

        outputs = network(images=tf.identity(pixels, name="preprocessed"))
        return {**{name: cleared(value) for name, value in outputs.items()}, "valid": valid[:count]}

    def tensor(network: Any, images: Any) -> Any:
        import tensorflow as tf

        from servekit.export.image_graph import at_least_one_row

        outputs = network(images=at_least_one_row(images))
        return {name: value[: tf.shape(images)[0]] for name, value in outputs.items()}

    def checks(reference: Reference) -> list[Check]:
        found = [
            Check(
                name="preprocessing against Pillow",
                signature="serving_default",
                inputs={"image_bytes": strings(*contents)},
                output="serving_default/preprocessed:0",
                expected=images,
                limit=Limit(max_abs=1.01, mean_abs=0.01),
                unit="grey levels",
                scale=max(preprocessing.std),
            )
        ]
        for name, value in reference({"images": images}).items():
            if value.shape[:1] != images.shape[:1]:
                raise ExportError(f"output {name} has the shape {list(value.shape)} for {len(images)} images")
            # As written, so that folding is measured; the whole chain differs by single grey levels more.
            limit = Limit(max_abs=1e-4 * max(1.0, float(np.abs(value).max(initial=0.0))))
            found.append(
                Check(f"{name} against the network as written", "tensor", {"images": images}, name, value, limit)
            )
        return found

    model = Model(
        signatures={
            "serving_default": Signature(serving_default, {"image_bytes": Spec("string", (None,))}),
            "tensor": Signature(tensor, network.inputs),
        },
        network=network,
        source=source,
        checks=checks,
        warmup={"serving_default": {"image_bytes": strings(contents[0])}, "tensor": {"images": images[:1]}},
    )
    return with_base64url(model)
