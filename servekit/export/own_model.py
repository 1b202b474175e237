"""A recipe for a model file of your own, without graph code: say what goes in and what comes out.

    RECIPE, build = own_model(
        title="Cat or not", licence="Apache-2.0", url="https://example.org/cats", source="cats.keras",
        preprocessing=ImagePreprocessing(160, 160, mean=(127.5,) * 3, std=(127.5,) * 3),
        labels=["cat", "something else"],
    )

Without `preprocessing` the signature takes and gives the model's own tensors; with it, image bytes; with `labels` too,
the answer is the labels and probabilities of a classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from servekit.errors import ExportError
from servekit.export import network_file
from servekit.export.classifier import image_classifier
from servekit.export.image_features import image_features
from servekit.export.network_file import NetworkFile
from servekit.export.preprocessing import ImagePreprocessing
from servekit.export.recipe import (
    Array,
    Check,
    Limit,
    Model,
    Network,
    Options,
    Recipe,
    Reference,
    Signature,
    Source,
    Spec,
)
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.paths import bundle

Gives = Literal["logits", "probabilities"]
_SIZES = (224, 32, 8, 1)
"""Tried on a model that leaves sizes open."""


def own_model(
    *,
    title: str,
    licence: str,
    url: str,
    source: str | Path | None = None,
    signature: str | None = None,
    tags: Sequence[str] = network_file.DEFAULT_TAGS,
    preprocessing: ImagePreprocessing | None = None,
    labels: Sequence[str] | None = None,
    output: str | None = None,
    gives: Gives = "logits",
    top: int = 5,
    samples: Sequence[Path] | None = None,
) -> tuple[Recipe, Callable[[Options], Model]]:
    """RECIPE and build of a recipe file.

    `source` is the `.keras` or `.h5` file or SavedModel folder where `--source` gives none. `signature` and `tags`
    choose inside a SavedModel (default: `serving_default`, or its only one). `output` names the model's output that the
    labels belong to, when it has several; `gives` says whether that output is before or after its softmax. `samples`
    are the images that the export is tried on (default: the photographs in export/samples).
    """
    if labels is not None and preprocessing is None:
        raise ValueError("labels need preprocessing: they are for models that take images")
    meant = "a .keras or .h5 model, or a SavedModel folder" + (f" (default: {source})" if source else "")

    def build(options: Options) -> Model:
        path = options.source or source
        if path is None:
            raise ExportError("--source is missing", hint=f"--source PATH: {meant}")
        path = Path(path).expanduser()
        found = network_file.read(path, signature=signature, tags=tags)
        where = Source(path.name, found.files, ("keras",))
        if preprocessing is None:
            return tensors_in_and_out(found, where)
        network = of_images(found, preprocessing)
        images = list(samples) if samples is not None else sample_photographs()
        if labels is None:
            return image_features(network=network, preprocessing=preprocessing, samples=images, source=where)
        classifier = image_classifier(
            network=logits_of(network, chosen_output(found, output), gives),
            preprocessing=preprocessing,
            labels=labels,
            samples=images,
            source=where,
            top=top,
        )
        return _held_to(classifier, gives)

    return Recipe(title=title, licence=licence, url=url, source=meant), build


def sample_photographs() -> list[Path]:
    return sorted(path for path in bundle().samples.iterdir() if path.suffix in (".jpg", ".png"))


def of_images(found: NetworkFile, preprocessing: ImagePreprocessing) -> Network:
    """The network with its one input called `images`. Raises ExportError unless it takes what preprocessing makes."""
    inputs = found.network.inputs
    wanted = (None, *preprocessing.shape)
    fits = [name for name, spec in inputs.items() if spec.dtype == "float32" and _takes(spec.shape, wanted)]
    if len(inputs) != 1 or len(fits) != 1:
        shown = ", ".join(f"{name}: {spec.dtype} {_shown(spec.shape)}" for name, spec in inputs.items())
        raise ExportError(f"the preprocessing makes float32 {_shown(wanted)}, but the model takes {shown}")
    (name,) = fits
    return Network(
        lambda images: found.network.function(**{name: images}),
        {"images": Spec("float32", (None, *preprocessing.shape))},
    )


def _takes(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """A fixed batch size does not: the server merges requests to batches of any size."""
    if len(shape) != len(wanted) or shape[0] is not None:
        return False
    return all(size in (None, needed) for size, needed in zip(shape[1:], wanted[1:], strict=True))


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("batch" if i == 0 and n is None else str(n) for i, n in enumerate(shape)) + "]"


def chosen_output(found: NetworkFile, output: str | None) -> str:
    if output is None and len(found.outputs) == 1:
        return found.outputs[0]
    if output in found.outputs:
        return str(output)
    raise ExportError(
        f"the model has the outputs {', '.join(found.outputs)}, " + (f"not {output}" if output else "say which one"),
        hint="in the recipe: output='NAME'",
    )


def logits_of(network: Network, output: str, gives: Gives) -> Network:
    """The network with that output alone, as logits: float32 [batch, classes]."""

    def function(images: Any) -> Any:
        import tensorflow as tf

        values = network.function(images=images)[output]
        # softmax(log(p)) is p again; probabilities that have become 0 stay finite.
        return values if gives == "logits" else tf.math.log(tf.maximum(values, 1e-30))

    return Network(function, network.inputs)


def _held_to(model: Model, gives: Gives) -> Model:
    """The classifier, refused where its network's answers are not what `gives` says: a softmax twice, or none."""

    def checks(reference: Reference) -> Sequence[Check]:
        seen: list[Array] = []

        def watched(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            answer = reference(inputs)
            seen.extend(answer.values())
            return answer

        found = model.checks(watched)  # which refuses another number of classes first
        for values in seen:
            refuse_other_scores(values, gives)
        return found

    scaled = model.scaled_jpeg
    return replace(model, checks=checks, scaled_jpeg=None if scaled is None else lambda: _held_to(scaled(), gives))


def refuse_other_scores(logits: Array, gives: Gives) -> None:
    """`logits`: [batch, classes], of `logits_of`. Raises ExportError unless the model gave what `gives` says."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        return
    if gives == "logits":
        if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
            raise ExportError(
                "the model gives probabilities (each row adds up to 1), not logits: a softmax would be applied twice",
                hint="in the recipe: gives='probabilities'",
            )
    elif not np.allclose(np.exp(logits).sum(axis=1), 1, atol=1e-2):
        raise ExportError(
            "the model does not give probabilities: its rows do not add up to 1",
            hint="in the recipe: gives='logits', if a softmax is still to come; several labels at once are not known",
        )


def tensors_in_and_out(found: NetworkFile, source: Source) -> Model:
    """One signature with the model's own inputs and outputs, held to the model as it was before folding."""
    function = found.network.function
    question = _question(found.network)
    has_batches = all(spec.shape[:1] == (None,) for spec in found.network.inputs.values())

    def answer(network: Any, **inputs: Any) -> Any:
        return network(**inputs)

    def checks(reference: Reference) -> list[Check]:
        if question is None:
            return []
        return [
            Check(
                name=f"{name} against the model as saved",
                signature=DEFAULT_SIGNATURE,
                inputs=question,
                output=name,
                expected=value.astype(np.float32) if _is_bfloat16(value) else value,
                limit=_rounding(value),
            )
            for name, value in reference(question).items()
            if value.dtype.kind in "fiu" or _is_bfloat16(value)
        ]

    return Model(
        signatures={DEFAULT_SIGNATURE: Signature(answer, found.network.inputs, found.method)},
        network=Network(function, found.network.inputs),
        source=source,
        checks=checks,
        warmup={} if question is None or not has_batches else {DEFAULT_SIGNATURE: question},
    )


def _is_bfloat16(value: Array) -> bool:
    return str(value.dtype) == "bfloat16"  # none of numpy's own kinds


def _rounding(value: Array) -> Limit:
    """What folding and another order of sums may change: little beside the largest number."""
    if value.dtype.kind in "iu":
        return Limit(max_abs=1e-4)
    largest = float(np.abs(value).astype(np.float64).max(initial=1.0))
    return Limit(max_abs=(0.01 if _is_bfloat16(value) else 1e-4) * largest)  # bfloat16 has 8 bits


def _question(network: Network) -> dict[str, Array] | None:
    """Random numbers for each input, in batches of one where that is open; None where they would have to be invented.

    Those are strings, and single numbers: settings mostly, such as whether to train. Sizes that the model leaves open,
    as networks for images of any size do, are the first of _SIZES that it answers for.
    """
    specs = network.inputs.values()
    if any(spec.dtype == "string" or not spec.shape for spec in specs):
        return None
    if not any(None in spec.shape[1:] for spec in specs):
        return _random(network, 1)
    from servekit.export import graph

    traced = graph.trace(network)
    for size in _SIZES:
        question = _random(network, size)
        try:
            graph.run_once(traced, question)
        except Exception:  # noqa: BLE001, S112  TensorFlow's, of many types: this size is not for this model
            continue
        return question
    return None


def _random(network: Network, size: int) -> dict[str, Array]:
    """Open sizes are `size`."""
    random = np.random.default_rng(0)
    question: dict[str, Array] = {}
    for name, spec in network.inputs.items():
        sizes = [spec.shape[0] or 1, *(known or size for known in spec.shape[1:])]
        values = random.uniform(0, 1, sizes)
        question[name] = values.astype(spec.dtype)  # whole-number types get zeros, which are valid indices
    return question
