"""Requests whose answers are compared: images, REST bodies, or the warm-up records that lie with a version."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from servekit.bulk.images import UnreadableImage, find_images, read_image
from servekit.client import Metadata, Signature
from servekit.client.payload import PayloadError, image_format, image_input, instances, json_or_file
from servekit.errors import ServekitError
from servekit.export.tfrecord import read_records
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.protos import messages
from servekit.tensors import to_array

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


class SampleError(ServekitError):
    """A sample, or all of them, cannot be used."""


@dataclass(frozen=True, slots=True)
class Question:
    """`inputs` of a predict call, or the `examples` (and their `context`) of a classify or regress call."""

    method: str
    signature_name: str = ""
    inputs: Any = None
    examples: Sequence[Mapping[str, Any]] = ()
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """`question` makes the request for a model with these signatures. Raises SampleError."""

    name: str
    question: Callable[[Metadata], Question]


def find(given: Path | None, version_folders: Sequence[Path], photographs: Path) -> list[Sample]:
    """Those in `given`; without it the warm-up records of the first version that has some, and with them the bundle's
    `photographs` if a record holds an image. Raises SampleError where there are none.
    """
    if given is not None:
        return of_path(given)
    for folder in version_folders:
        if (folder / WARMUP).is_file():
            found = list(of_warmup(folder / WARMUP))
            if any(_holds_image(sample) for sample in found) and photographs.is_dir():
                found += of_folder(photographs)
            if found:
                return found
    raise SampleError("the version has no warm-up records; name a folder of samples: analysis.agreement.samples")


def of_path(path: Path) -> list[Sample]:
    """A folder (its images and .json files), or one .json file."""
    if path.is_dir():
        return of_folder(path)
    if not path.is_file():
        raise SampleError(f"{path}: no such file or folder")
    return of_bodies(path)


def of_folder(folder: Path) -> list[Sample]:
    try:
        samples = [Sample(name, functools.partial(_image, folder / name)) for name in find_images(folder)]
    except PayloadError as error:
        raise SampleError(error.message) from None
    for file in sorted(folder.glob("*.json")):
        samples += of_bodies(file)
    if not samples:
        raise SampleError(f"{folder}: no images and no .json files in it")
    return samples


def of_bodies(path: Path) -> list[Sample]:
    """One REST body `{"instances": …}`, `{"inputs": …}` or `{"examples": …}`, or a list of them."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path}: {getattr(error, 'strerror', None) or f'not JSON: {error}'}") from None
    bodies = document if isinstance(document, list) else [document]
    names = [path.name] if len(bodies) == 1 else [f"{path.name}[{index}]" for index in range(len(bodies))]
    for name, body in zip(names, bodies, strict=True):
        if not isinstance(body, dict) or len({"instances", "inputs", "examples"} & set(body)) != 1:
            raise SampleError(f"{name}: a REST body with instances, inputs or examples is expected")
    if not bodies:
        raise SampleError(f"{path}: an empty list")
    return [Sample(name, functools.partial(_of_body, name, body)) for name, body in zip(names, bodies, strict=True)]


def of_warmup(path: Path) -> Iterator[Sample]:
    """Predict, classify and regress records, without repetitions: of batches that repeat one item, the smallest."""
    known: set[tuple[Any, ...]] = set()
    try:
        for number, data in enumerate(read_records(path), 1):
            question = _of_record(messages.PredictionLog.FromString(data))
            if question is not None and (key := _identity(question)) not in known:
                known.add(key)
                name = question.signature_name or DEFAULT_SIGNATURE
                yield Sample(f"warm-up record {number} ({name})", _Fixed(question))
    except (OSError, ValueError, DecodeError) as error:
        raise SampleError(f"{path}: no warm-up records: {error}") from None


@dataclass(frozen=True, slots=True)
class _Fixed:
    question: Question

    def __call__(self, _: Metadata) -> Question:
        return self.question


def _image(path: Path, metadata: Metadata) -> Question:
    try:
        name = image_input(metadata.name, _signature(metadata, "")).name
        return Question("predict", inputs={name: [read_image(path)]})
    except (PayloadError, UnreadableImage) as error:
        raise SampleError(str(error)) from None


def _of_body(name: str, body: Mapping[str, Any], metadata: Metadata) -> Question:
    signature_name = str(body.get("signature_name", ""))
    signature = _signature(metadata, signature_name)
    try:
        if "examples" in body:
            method = signature.method_name.rpartition("/")[2]
            examples = _decoded(body["examples"])
            return Question(method, signature_name, examples=examples, context=_decoded(body.get("context", {})))
        if "inputs" in body:
            return Question("predict", signature_name, _decoded(body["inputs"]))
        return Question("predict", signature_name, instances(json.dumps(body["instances"]), signature))
    except PayloadError as error:
        raise SampleError(f"{name}: {error.message.replace('--instances', 'instances')}") from None


def _decoded(value: Any) -> Any:
    """`{"b64": …}` becomes bytes."""
    return json_or_file(json.dumps([value]), "base64")[0]


def _signature(metadata: Metadata, name: str) -> Signature:
    signature = metadata.signature(name)
    if signature is None:
        raise SampleError(f"stable has no signature {name or DEFAULT_SIGNATURE}")
    return signature


def _of_record(log: Any) -> Question | None:
    kind = str(log.WhichOneof("log_type")).removesuffix("_log")
    if kind not in ("predict", "classify", "regress"):
        return None
    request = getattr(log, f"{kind}_log").request
    name = request.model_spec.signature_name
    if kind == "predict":
        return Question(kind, name, {alias: to_array(proto) for alias, proto in request.inputs.items()})
    listed = request.input.example_list_with_context
    if request.input.WhichOneof("kind") != "example_list_with_context":
        return Question(kind, name, examples=[_features(one) for one in request.input.example_list.examples])
    return Question(kind, name, examples=[_features(one) for one in listed.examples], context=_features(listed.context))


def _features(example: Any) -> dict[str, Any]:
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def _identity(question: Question) -> tuple[Any, ...]:
    """Equal for questions that ask the same, however often a batch repeats it."""
    if question.method != "predict":
        return question.method, question.signature_name, repr(question.examples[:1]), repr(question.context)
    rows = tuple((name, _one_row(array)) for name, array in sorted(question.inputs.items()))
    return question.method, question.signature_name, rows


def _one_row(array: NDArray[Any]) -> Any:
    if array.ndim and len(array) > 1 and all(np.array_equal(array[0], row) for row in array[1:]):
        array = array[:1]
    return (array.shape, repr(array.tolist()) if array.dtype.kind == "O" else array.tobytes())


def picture(question: Question) -> tuple[str, bytes] | None:
    """The input and the (first) file where images are all that is sent, to the default signature."""
    if question.method != "predict" or question.signature_name not in ("", DEFAULT_SIGNATURE):
        return None
    if not isinstance(question.inputs, Mapping) or len(question.inputs) != 1:
        return None
    [(name, value)] = question.inputs.items()
    rows = np.asarray(value, dtype=object).ravel().tolist()
    if not rows or not isinstance(rows[0], bytes) or image_format(rows[0]) is None:
        return None
    return name, rows[0]


def _holds_image(sample: Sample) -> bool:
    question = sample.question.question if isinstance(sample.question, _Fixed) else None
    return question is not None and picture(question) is not None
