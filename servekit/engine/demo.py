"""The proof at the end of `up`: one photograph to every label, over REST and over gRPC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.client import Client, ModelSpec
from servekit.client.payload import PayloadError, image_input
from servekit.client.ranking import rankings
from servekit.errors import EngineError


@dataclass(frozen=True, slots=True)
class Answer:
    """`version` is the one that the label meant at that moment; `milliseconds` as the client measured them."""

    protocol: str
    label: str
    version: int
    best: str
    probability: float
    milliseconds: float


def takes_images(client: Client, model: str) -> bool:
    signature = client.metadata(model).signature("")
    if signature is None or "probabilities" not in signature.outputs:
        return False
    try:
        image_input(model, signature)
    except PayloadError:
        return False
    return True


def ask(client: Client, protocol: str, model: str, labels: Sequence[str], photograph: Path) -> list[Answer]:
    """Raises StatusError as the client does, EngineError when the model cannot read the photograph."""
    return [_ask_one(client, protocol, ModelSpec(model, version_label=label), label, photograph) for label in labels]


def _ask_one(client: Client, protocol: str, spec: ModelSpec, label: str, photograph: Path) -> Answer:
    version = client.metadata(spec).version
    start = time.monotonic()
    prediction = client.predict(spec, [photograph.read_bytes()])
    milliseconds = (time.monotonic() - start) * 1000
    ranked = rankings(prediction.outputs, 1)
    if not ranked or not ranked[0].valid or not ranked[0].classes:
        raise EngineError(f"{spec.name} {label} over {protocol}: no class for {photograph.name}")
    best = ranked[0].classes[0]
    name = best.label or f"class {best.class_id}"
    return Answer(protocol, label, prediction.version or version, name, best.probability, milliseconds)
