"""`serving_base64url`: image files as URL-safe base64 text, for clients that were written to send them so.

Some tutorials' servers decode such text in the graph, and their clients send it over REST and gRPC alike. The answers
are those of the signature that takes the files' bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from servekit.export.recipe import Model, Signature, strings
from servekit.model_spec import DEFAULT_SIGNATURE

SIGNATURE = "serving_base64url"


def with_base64url(model: Model, beside: str = DEFAULT_SIGNATURE) -> Model:
    """The model with that signature behind `beside`, whose one input `X_bytes` (string [batch]) it takes as text.

    Its input is `X_base64url`: string [batch], with or without padding. Text that cannot be decoded is no image. It is
    warmed up as `beside` is, unless the network takes a batch's images one by one: then every load would wait for it.
    """
    signature = model.signatures[beside]
    (entry,) = signature.inputs
    alias = f"{entry.removesuffix('_bytes')}_base64url"

    def function(network: Any, **inputs: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        from servekit.export.image_graph import extracted

        return signature.function(network, **{entry: extracted(tf.io.decode_base64, inputs[alias])})

    signatures, warmup = dict[str, Signature](), dict[str, Any]()
    for name, existing in model.signatures.items():
        signatures[name] = existing
        if name == beside:
            signatures[SIGNATURE] = Signature(function, {alias: signature.inputs[entry]})
    for name, inputs in model.warmup.items():
        warmup[name] = inputs
        if name == beside and model.batched:
            warmup[SIGNATURE] = {alias: strings(*(base64.urlsafe_b64encode(data) for data in inputs[entry]))}
    return replace(model, signatures=signatures, warmup=warmup)
