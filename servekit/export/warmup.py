"""Warmup records: real requests that the model server runs before it calls a version AVAILABLE.

Without them the first client of a version pays for graph optimisation and memory: a second instead of milliseconds.
Few and distinct: one request for each batch size of the default signature, one for each other signature. The server
fails the load of a version with one bad record, and reads at most 1,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
"""Every load of the version waits for its records. Those of the default signature must fit into it; of the others, in
the recipe's order, as many are kept as do."""


def requests(model: Model, name: str, batch_sizes: Sequence[int]) -> list[Any]:
    """One PredictionLog a record: `serving_default` with each of `batch_sizes`, then the others with one item."""
    sizes = useful_sizes(model, batch_sizes)
    logs = []
    for signature, inputs in sorted(model.warmup.items(), key=lambda item: item[0] != DEFAULT_SIGNATURE):
        for size in sizes if signature == DEFAULT_SIGNATURE else (1,):
            batch = {alias: np.repeat(value, size, axis=0) for alias, value in inputs.items()}
            logs.append(prediction_log(name, signature, model.signatures[signature].method, batch))
    return logs


def useful_sizes(model: Model, batch_sizes: Sequence[int]) -> list[int]:
    """Ascending, each once; 1 alone for a model that computes its items one by one."""
    return sorted(set(batch_sizes)) if model.batched else [1]


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


def write(version_folder: Path, logs: Sequence[Any]) -> None:
    path = version_folder / FILE
    path.parent.mkdir(exist_ok=True)
    write_records(path, (log.SerializeToString() for log in logs))


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
