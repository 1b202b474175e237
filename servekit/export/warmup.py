"""Warmup records: real requests that the model server runs before it calls a version AVAILABLE.

Without them the first client of a version pays for graph optimisation and memory: a second instead of milliseconds.
Few and distinct: one request for each batch size of each signature, as many of them as are done in 5 s, because every
load waits for them. The server fails the load of a version with one bad record, and reads at most 1,000.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servekit import tensors
from servekit.export.recipe import Array, Method, Model
from servekit.export.tfrecord import read_records, write_records
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.protos import messages

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
DEFAULT_BATCH_SIZES = (1, 8)
LIMIT_S = 5.0
"""Every load of the version waits for its records. As many are kept as fit into it: those of the default signature
first, then the smallest batch of each other one. Batch sizes that were asked for must fit for the default signature."""
LIMIT_BYTES = 16_000_000
"""Of the file. Beyond it, other signatures than the default one have no more records: with 32 images of 224 pixels a
record of floats is larger than most networks."""


@dataclass(frozen=True, slots=True)
class Record:
    signature: str
    batch_size: int
    log: Any
    """A PredictionLog."""


def requests(model: Model, name: str, batch_sizes: Sequence[int] | None) -> list[Record]:
    """`serving_default` with each of `batch_sizes`, then all others with the smallest one, then with the next."""
    others = [signature for signature in model.warmup if signature != DEFAULT_SIGNATURE]
    sizes = useful_sizes(model, batch_sizes)
    wanted = [(DEFAULT_SIGNATURE, size) for size in sizes if DEFAULT_SIGNATURE in model.warmup]
    wanted += [(signature, size) for size in sizes for signature in others]
    records: list[Record] = []
    room = LIMIT_BYTES
    for signature, size in wanted:
        batch = {alias: np.repeat(value, size, axis=0) for alias, value in model.warmup[signature].items()}
        log = prediction_log(name, signature, model.signatures[signature].method, batch)
        room -= log.ByteSize()
        if room >= 0 or signature == DEFAULT_SIGNATURE or size == sizes[0]:
            records.append(Record(signature, size, log))
    return records


def left_out(model: Model, batch_sizes: Sequence[int] | None, kept: Sequence[Record]) -> dict[str, list[int]]:
    """Batch sizes without a record, by signature."""
    done = {(record.signature, record.batch_size) for record in kept}
    sizes = useful_sizes(model, batch_sizes)
    missing = {signature: [size for size in sizes if (signature, size) not in done] for signature in model.warmup}
    return {signature: sizes for signature, sizes in missing.items() if sizes}


def useful_sizes(model: Model, batch_sizes: Sequence[int] | None) -> list[int]:
    """Ascending, each once; 1 and 8 for None; at most 1 for a model that computes its items one by one."""
    wanted = DEFAULT_BATCH_SIZES if batch_sizes is None else batch_sizes
    return sorted(set(wanted) if model.batched else {min(1, size) for size in wanted})


def prediction_log(name: str, signature: str, method: Method, inputs: Mapping[str, Array]) -> Any:
    log = messages.PredictionLog()
    request = getattr(log, f"{method}_log").request
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if method == "predict":
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(value))
    else:
        (examples,) = inputs.values()
        request.input.example_list.examples.extend(messages.Example.FromString(item) for item in examples)
    return log


def write(version_folder: Path, records: Sequence[Record]) -> None:
    """No records, no file."""
    path = version_folder / FILE
    if not records:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or others' assets in it
            path.parent.rmdir()
        return
    path.parent.mkdir(exist_ok=True)
    # Deterministic: without it the inputs of a request come in an order of their own each time.
    write_records(path, (record.log.SerializeToString(deterministic=True) for record in records))


def read(version_folder: Path) -> Iterator[tuple[str, dict[str, Array]]]:
    """Signature name and inputs by alias of each record, as a server feeds them."""
    for data in read_records(version_folder / FILE):
        log = messages.PredictionLog.FromString(data)
        request = getattr(log, str(log.WhichOneof("log_type"))).request
        if hasattr(request, "inputs"):
            inputs = {alias: tensors.to_array(proto) for alias, proto in request.inputs.items()}
        else:
            examples = np.empty(len(request.input.example_list.examples), object)
            examples[:] = [example.SerializeToString() for example in request.input.example_list.examples]
            inputs = {"inputs": examples}
        yield request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs
