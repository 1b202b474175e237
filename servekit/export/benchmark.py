"""How fast an exported classifier is beside the same one exported the usual way: `python -m servekit.export.benchmark`.

The usual way: decode_image, one tf.image.resize, tf.map_fn, nothing folded, variables. Most tutorials' resize looks at
four pixels for each one of the result (up to 100 grey levels off). `one pass` is the same with the network's own crop
and an antialiased bicubic filter, as its weights were trained with (up to 4 grey levels off): it does what ours do, and
the other does less. The last line holds ours to the quicker of the two. All are loaded through
the TF1 loader into one process and asked in turn, so that a busy moment of the machine hits each; the ratios of a run
can be compared, its absolute numbers only on an idle machine. `cpu` is processor time, which a busy machine changes
less.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from servekit.export import fold, graph, precision, recipes
from servekit.export.recipe import Model, Options, Signature, Spec, strings
from servekit.paths import bundle

_BATCHES = (1, 8)
_USUAL, _ONE_PASS, _AS_WRITTEN = "usual way", "one pass", "as written"
_OURS, _BFLOAT16, _SCALED = "ours", "bfloat16", "bf16, scaled"

Call = Callable[[], Any]


def usual_way(model: Model, size: int, *, filtered: bool) -> Model:
    """The same network behind the preprocessing of most tutorials; `filtered`: with crop, bicubic and antialiased."""

    def predict(network: Any, image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            if not filtered:
                return (tf.image.resize(image, (size, size)) - 127.0) / 128.0
            sides = tf.shape(image)[:2]
            side = tf.reduce_min(sides) * size // (size + 32)
            top, left = tf.unstack((sides - side) // 2)
            image = tf.image.crop_to_bounding_box(image, top, left, side, side)
            return (tf.image.resize(image, (size, size), "bicubic", antialias=True) - 127.0) / 128.0

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


def calls(folder: Path, files: Mapping[str, bytes], size: int, threads: int) -> dict[str, Call]:
    """Name of a measurement to a call of the loaded SavedModel; `threads` as the server's flags set them (0: cores)."""
    loaded = tf.Graph()
    inter = -1 if threads == 1 else threads  # in the thread of the request
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=inter)
    session = tf.compat.v1.Session(graph=loaded, config=config)
    with loaded.as_default():
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def

    def call(name: str, inputs: Any) -> Call:
        (source,) = signatures[name].inputs.values()
        run = session.make_callable([info.name for info in signatures[name].outputs.values()], [source.name])
        return lambda: run(inputs)

    found = {}
    noise = np.random.default_rng(0).uniform(-1, 1, (max(_BATCHES), size, size, 3)).astype(np.float32)
    for batch in _BATCHES:
        for name, data in files.items():
            found[f"{name}, batch {batch}"] = call("serving_default", strings(*[data] * batch))
        found[f"tensor, batch {batch}"] = call("tensor", noise[:batch])
    return found


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one call in each round."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def in_turn(models: Mapping[str, Mapping[str, Call]], what: str, rounds: int, callers: int = 1) -> dict[str, Seconds]:
    """Seconds that a call of `what` takes of each model, asked in turn, every other round in reverse; of several
    `callers` at once, who call twice each, the time of all by the number of calls."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    calls_of_one = 1 if callers == 1 else 2
    for measured in models.values():
        measured[what]()
    with ThreadPoolExecutor(callers) as pool:
        for number in range(rounds):
            for name in models if number % 2 == 0 else reversed(list(models)):
                call = models[name][what]
                wall, cpu = time.perf_counter(), time.process_time()
                for done in [pool.submit(_times, call, calls_of_one) for _ in range(callers)]:
                    done.result()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                times[name].append((wall / callers / calls_of_one, cpu / callers / calls_of_one))
    return {name: Seconds(*zip(*rows, strict=True)) for name, rows in times.items()}


def _times(call: Call, count: int) -> None:
    for _ in range(count):
        call()


def times_as_fast(others: Sequence[float], ours: Sequence[float]) -> float:
    """Median of the rounds' ratios: what slows the machine for a while slows both sides of a round."""
    return statistics.median(other / one for other, one in zip(others, ours, strict=True))


def machine() -> str:
    """Processor, cores, and which short number types it computes with."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    short = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {', '.join(short) or 'no bfloat16'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="lite0")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="of TensorFlow; 0: as cores, 1: as `servekit render` sets the server's flags",
    )
    parser.add_argument("--callers", type=int, default=1, help="at once: with as many as cores none of these is idle")
    parser.add_argument("--only", metavar="TEXT", default="", help="measurements whose name holds it, e.g. 'batch 8'")
    parser.add_argument("--json", action="store_true")
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
        graph.save(usual_way(model, size, filtered=False), written, root / _USUAL, freeze=False)
        graph.save(usual_way(model, size, filtered=True), written, root / _ONE_PASS, freeze=False)
        graph.save(model, written, root / _AS_WRITTEN, freeze=False)
        graph.save(model, folded, root / _OURS, freeze=True)
        lowered = precision.in_bfloat16(folded)[0]
        graph.save(model, lowered, root / _BFLOAT16, freeze=True)
        assert model.scaled_jpeg is not None
        graph.save(model.scaled_jpeg(), lowered, root / _SCALED, freeze=True)
        files = images(here.samples)
        names = (_USUAL, _ONE_PASS, _AS_WRITTEN, _OURS, _BFLOAT16, _SCALED)
        models = {name: calls(root / name, files, size, options.threads) for name in names}
        wanted = [what for what in models[_OURS] if options.only in what]
        if not options.json:
            threads = f"threads {options.threads or 'as cores'}, {options.callers} at once"
            print(f"{machine()}; {threads}; TensorFlow {tf.__version__}")
            print(
                f"{'images a second':24}"
                + "".join(f"{name:>14}" for name in names)
                + "   the last three / usual way; / one pass"
            )
        results = {}
        for what in wanted:
            seconds = in_turn(models, what, options.rounds, options.callers)
            results[what] = _result(seconds, int(what.rpartition(" ")[2]))
            if not options.json:
                _print(what, results[what])
        whole = [result for what, result in results.items() if what.endswith("batch 8") and "tensor" not in what]
        if whole and not options.json:
            _print_least(whole)
    if options.json:
        facts = {
            "machine": machine(),
            "threads": options.threads,
            "tensorflow": tf.__version__,
            "rounds": options.rounds,
            "callers": options.callers,
        }
        print(json.dumps({**facts, "variant": options.variant, "results": results}, indent=2))


def _result(seconds: Mapping[str, Seconds], batch: int) -> dict[str, Any]:
    usual, one_pass = seconds[_USUAL], seconds[_ONE_PASS]
    return {
        name: {
            "images_per_second": batch / statistics.median(found.wall),
            "cpu_ms_per_image": 1000 * statistics.median(found.cpu) / batch,
            "times_the_usual": times_as_fast(usual.wall, found.wall),
            "times_the_usual_cpu": times_as_fast(usual.cpu, found.cpu),
            "times_one_pass": times_as_fast(one_pass.wall, found.wall),
            "times_one_pass_cpu": times_as_fast(one_pass.cpu, found.cpu),
        }
        for name, found in seconds.items()
    }


def _print(what: str, result: Mapping[str, Any]) -> None:
    rates = "".join(f"{found['images_per_second']:14.1f}" for found in result.values())
    ratios = "; ".join(
        ", ".join(f"{result[name][key]:.2f}" for name in (_OURS, _BFLOAT16, _SCALED))
        for key in ("times_the_usual", "times_one_pass")
    )
    print(f"{what:24}{rates}   {ratios}", flush=True)


def _print_least(results: Sequence[Mapping[str, Any]]) -> None:
    """Over all files and both ways, by wall clock and by processor time."""
    least = {
        name: [
            min(
                result[name][f"{against}{unit}"]
                for result in results
                for against in ("times_the_usual", "times_one_pass")
            )
            for unit in ("", "_cpu")
        ]
        for name in (_OURS, _BFLOAT16, _SCALED)
    }
    shown = "; ".join(f"{name} {wall:.2f} ({cpu:.2f})" for name, (wall, cpu) in least.items())
    print(f"bytes to labels, batch 8, least of all these: {shown} (processor time)")


if __name__ == "__main__":
    main()
