"""What a recipe says about a model; everything else (graph, checks, warmup, manifest, publishing) is the pipeline's.

A recipe is one file, `export/<model>.py`, importable without TensorFlow, with two names:

    RECIPE: Recipe                          what the model is, which variants it has
    def build(options: Options) -> Model    imports what it needs, reads the weights, says how they are used
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Method = Literal["predict", "classify", "regress"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One set of weights. `version` is the number it gets when `--variant` is not given; None: only by `--variant`."""

    name: str
    description: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    title: str
    licence: str
    """Of the weights, as an SPDX identifier."""
    url: str
    """Where the weights are described."""
    variants: Sequence[Variant] = ()
    source: str | None = None
    """What `--source` means for this recipe (shown by `--list`); None when it takes none."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's choice. `variant` is "" when the recipe has none."""

    variant: str = ""
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """dtype as TensorFlow names it (`float32`, `string`) and shape; None is a size known at run time."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """The weights' part of the graph, shared by all signatures, so that weights are written once.

    `function` takes the inputs by name and returns one tensor or a dict of them. It may close over numpy arrays,
    tf.Variables or a Keras 3 model called with `training=False`.
    """

    function: Callable[..., Any]
    inputs: Mapping[str, Spec]


@dataclass(frozen=True, slots=True)
class Signature:
    """`function(network, **inputs)` returns the outputs by name. Inputs and outputs share the batch dimension.

    TF Serving expects of classify one string input called `inputs` (serialised tf.Example) and outputs `classes` and/or
    `scores` [batch, k]; of regress the same input and one output `outputs` [batch].
    """

    function: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, Spec]
    method: Method = "predict"
    features: Sequence[str] = ()
    """Names in the tf.Example that classify and regress take; `servekit inspect` shows how to send them."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How far an answer of the exported model may be from the expected one; None is not looked at."""

    max_abs: float | None = None
    mean_abs: float | None = None
    agreement: float | None = None
    """Smallest share of equal elements, 0..1. The only limit for strings."""


@dataclass(frozen=True, slots=True)
class Check:
    """One parity question to the exported model, asked in a fresh process after loading it as TF Serving does."""

    name: str
    signature: str
    inputs: Mapping[str, Array]
    output: str
    """Alias of an output, or the name of a tensor inside the graph (`serving_default/preprocessed:0`)."""
    expected: Array
    limit: Limit
    unit: str = ""
    scale: float = 1.0
    """Differences are multiplied by it, to be given in `unit`."""
    reduced: Limit | None = None
    """Instead of `limit` when the network computes in bfloat16 (`--precision`); None: the same limit."""
    images: bool = False
    """The output holds image files; their pixels are compared, `expected` is [batch, height, width, ...]."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from. `files` are hashed into the manifest."""

    name: str
    files: Sequence[Path] = ()
    packages: Sequence[str] = ()
    """Python distributions the files or the code came from; their versions go into the manifest."""
    licence: str | None = None
    """Where it is not the recipe's: `NOASSERTION` for a user's own weights."""


Reference = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""The network as its recipe wrote it (nothing folded): inputs by name to outputs by name (`output` if it has one)."""


@dataclass(frozen=True, slots=True)
class Model:
    signatures: Mapping[str, Signature]
    source: Source
    network: Network | None = None
    checks: Callable[[Reference], Sequence[Check]] = field(default=lambda _: ())
    """Called once, with the untouched network, to make the parity questions."""
    warmup: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    """Signature to one item's inputs, each [1, ...]; repeated to the batch sizes wanted."""
    batched: bool = True
    """False where a batch's items go through the network one by one: one of them warms up all batch sizes."""
    scaled_jpeg: Callable[[], Model] | None = None
    """The same model as `--scaled-jpeg` exports it; None for one that has no such way."""


def example(**features: float | bytes) -> bytes:
    """A serialised tf.Example with one number or one byte string a feature; `/` in a name is written `__`."""
    from servekit.protos import messages

    message = messages.Example()
    for name, value in features.items():
        feature = message.features.feature[name.replace("__", "/")]
        (feature.bytes_list if isinstance(value, bytes) else feature.float_list).value.append(value)
    data: bytes = message.SerializeToString()
    return data


def strings(*values: bytes) -> Array:
    """Bytes as the string tensor that signatures take: an object array [len(values)]."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
