"""How fast an exported classifier is beside the same one exported the usual way: `python -m servekit.export.benchmark`.

The usual way: decode_image, one tf.image.resize, tf.map_fn, nothing folded, variables. All are loaded through the TF1
loader into one process and asked in turn, so that a busy moment of the machine hits each; the ratios of a run can be
compared, its absolute numbers only on an idle machine.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from servekit.export import fold, graph, recipes
from servekit.export.recipe import Model, Options, Signature, Spec, strings
from servekit.paths import bundle

_BATCHES = (1, 8)
_USUAL, _AS_WRITTEN, _OURS = "usual way", "exact, as written", "exact, folded, frozen"

Call = Callable[[], Any]


def usual_way(model: Model, size: int) -> Model:
    """The same network behind the preprocessing of most tutorials."""

    def predict(network: Any, image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            return (tf.image.resize(image, (size, size)) - 127.0) / 128.0

        images = tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([size, size, 3]))
        values, ids = tf.math.top_k(tf.nn.softmax(network(images=images)), 5)
        return {"probabilities": values, "class_ids": ids}

    signature = Signature(predict, {"image_bytes": Spec("string", (None,))})
    return replace(model, signatures={"serving_default": signature, "tensor": model.signatures["tensor"]})


def images(samples: Path) -> dict[str, bytes]:
    with Image.open(samples / "coffee.jpg") as photo:
        large = io.BytesIO()
        photo.resize((1920, 1080), Image.Resampling.LANCZOS).save(large, "JPEG", quality=90)
    return {
        "PNG 451x300": (samples / "chelsea.png").read_bytes(),
        "JPEG 451x300": (samples / "chelsea.jpg").read_bytes(),
        "JPEG 1920x1080": large.getvalue(),
    }


def calls(folder: Path, files: Mapping[str, bytes], size: int) -> dict[str, Call]:
    """Name of a measurement to a call of the loaded SavedModel."""
    loaded = tf.Graph()
    session = tf.compat.v1.Session(graph=loaded)
    with loaded.as_default():
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def

    def call(name: str, inputs: Any) -> Call:
        (source,) = signatures[name].inputs.values()
        outputs = [info.name for info in signatures[name].outputs.values()]
        return lambda: session.run(outputs, {source.name: inputs})

    found = {}
    for batch in _BATCHES:
        found[f"tensor, batch {batch}"] = call("tensor", np.zeros((batch, size, size, 3), np.float32))
        for name, data in files.items():
            found[f"{name}, batch {batch}"] = call("serving_default", strings(*[data] * batch))
    return found


def medians(models: Mapping[str, Mapping[str, Call]], what: str, rounds: int) -> dict[str, float]:
    """Seconds of one call of `what` for each model, asked in turn."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for measured in models.values():
        measured[what]()
    for _ in range(rounds):
        for name, measured in models.items():
            start = time.perf_counter()
            measured[what]()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="lite0")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    here = bundle()
    model = recipes.load(here, "imagenet").build(Options(options.variant))
    assert model.network is not None
    size = model.network.inputs["images"].shape[1]
    assert size is not None
    written = graph.trace(model.network)
    folded, _ = fold.fold_batch_norm(written)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        graph.save(usual_way(model, size), written, root / "usual", freeze=False)
        graph.save(model, written, root / "written", freeze=False)
        graph.save(model, folded, root / "ours", freeze=True)
        files = images(here.samples)
        folders = {_USUAL: "usual", _AS_WRITTEN: "written", _OURS: "ours"}
        models = {name: calls(root / folder, files, size) for name, folder in folders.items()}
        print(f"{'images a second':26}" + "".join(f"{name:>24}" for name in models) + f"{'ours / usual':>15}")
        for what in models[_OURS]:
            seconds = medians(models, what, options.rounds)
            batch = int(what.rpartition(" ")[2])
            rates = "".join(f"{batch / value:24.1f}" for value in seconds.values())
            print(f"{what:26}{rates}{seconds[_USUAL] / seconds[_OURS]:15.2f}", flush=True)


if __name__ == "__main__":
    main()
