"""Requests for a model: images, or random tensors of its signature; the same ones for REST and gRPC."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.bench.traffic import Request
from servekit.client.answers import Signature, TensorSpec
from servekit.client.grpc_wire import GrpcWire
from servekit.client.payload import PayloadError, image_input, read_image
from servekit.client.rest_wire import RestWire
from servekit.client.wire import Wire
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec

VARIANTS = 8
"""Different random requests, sent in turn: one alone could be answered out of a cache."""

Inputs = dict[str, NDArray[Any]]


def inputs_of(model: str, signature: Signature, images: Sequence[Path], batch: int, seed: int = 0) -> list[Inputs]:
    """One mapping a request. Images are dealt out in turn, `batch` to a request. Raises PayloadError."""
    if images:
        name = image_input(model, signature).name
        files = itertools.cycle([read_image(path) for path in images])
        return [{name: _texts([next(files) for _ in range(batch)])} for _ in range(max(len(images) // batch, 1))]
    random = np.random.default_rng(seed)
    return [
        {name: _random(model, spec, batch, random) for name, spec in signature.inputs.items()} for _ in range(VARIANTS)
    ]


def requests(spec: ModelSpec, inputs: Sequence[Inputs]) -> dict[str, tuple[Request, ...]]:
    """By protocol, REST and gRPC."""
    wires: dict[str, Wire] = {"REST": RestWire(), "gRPC": GrpcWire()}
    return {name: tuple(_request(wire, spec, one) for one in inputs) for name, wire in wires.items()}


def _request(wire: Wire, spec: ModelSpec, inputs: Inputs) -> Request:
    call = wire.predict(spec, inputs, ())
    return Request(call.target, call.body)


def _random(model: str, spec: TensorSpec, batch: int, random: np.random.Generator) -> NDArray[Any]:
    """The first free dimension is the batch, further ones are 1."""
    kind = spec.data_type.numpy if spec.data_type else None
    if spec.shape is None or kind is None or kind.kind not in "fiub":
        raise PayloadError(
            f"{model}: input {spec.name} is {spec.dtype}: random values make no sense",
            hint=f"give images: servekit bench {model} photo.jpg ..., or --signature, if {DEFAULT_SIGNATURE} is not it",
        )
    free = iter([batch])
    shape = [next(free, 1) if size < 0 else size for size in spec.shape]
    if kind.kind == "f":
        return random.random(shape).astype(kind)
    return random.integers(0, 2, shape).astype(kind)


def _texts(items: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
