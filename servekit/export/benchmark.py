"""How fast an exported classifier is beside the same one exported the usual way: `python -m servekit.export.benchmark`.

The usual way: a Keras model, decode_image, one tf.image.resize, tf.map_fn, nothing folded, variables. Most tutorials'
resize looks at four pixels for each one of the result (up to 100 grey levels off). `one pass` is the same with the
network's own crop and an antialiased bicubic filter, as its weights were trained with (up to 4 grey levels off): it
does what ours do, and the other does less. `as written` is ours with nothing folded or frozen: batch normalisation is
one operation there, which TensorFlow fuses with most convolutions, and several in a Keras model.

All are loaded through the TF1 loader into one process and asked in turn, so that a busy moment of the machine hits
each; the ratios of a run can be compared, its absolute numbers only on an idle machine. `cpu` is processor time, which
a busy machine changes less. Each setting (threads, callers) has a process of its own that has built nothing:
TensorFlow gives all sessions of a process the threads within an operation that its first session asked for.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import config_pb2

from servekit.export import fold, graph, pieces, precision, recipes, usual_export
from servekit.export.keras_network import as_keras
from servekit.export.recipe import Options, strings
from servekit.export.usual_export import usual_way
from servekit.paths import bundle

_BATCHES = (1, 8)
_USUAL, _ONE_PASS, _AS_WRITTEN = "usual way", "one pass", "as written"
_OURS, _BFLOAT16, _SCALED = "ours", "bfloat16", "bf16, scaled"
_TURN_S = 0.2
_NAMES = (_USUAL, _ONE_PASS, _AS_WRITTEN, _OURS, _BFLOAT16, _SCALED)

RENDERED, OWN = 1, 0
"""Threads: one an operation, all of a request in its own thread, as `servekit render` sets the server's flags; and
TensorFlow's own, as many as cores, as without flags."""

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    threads: int
    callers: int

    @staticmethod
    def read(text: str) -> Setting:
        """`THREADSxCALLERS`, raises ValueError."""
        threads, callers = (int(part) for part in text.split("x"))
        return Setting(threads, callers)

    def __str__(self) -> str:
        threads = {RENDERED: "as servekit render sets them", OWN: "TensorFlow's own"}.get(self.threads, self.threads)
        return f"threads {threads}, {self.callers} at once"


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
        fetched = [info.name for info in signatures[name].outputs.values()]
        # As our server calls: Session.run would add a third of a millisecond of Python to each.
        run = session._make_callable_from_options(config_pb2.CallableOptions(feed=[source.name], fetch=fetched))
        return lambda: run(inputs)

    found = {}
    for batch in _BATCHES:
        for name, data in files.items():
            found[f"{name}, batch {batch}"] = call("serving_default", strings(*[data] * batch))
        found[f"tensor, batch {batch}"] = call("tensor", aligned((batch, size, size, 3)))
    return found


def aligned(shape: tuple[int, ...]) -> Any:
    """Noise, float32 in [-1, 1], where TensorFlow reads it without copying it first: at a multiple of 64 bytes."""
    count = int(np.prod(shape))
    room = np.empty(count + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    image = room[start : start + count].reshape(shape)
    image[:] = np.random.default_rng(0).uniform(-1, 1, shape)
    return image


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one call in each round."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def in_turn(models: Mapping[str, Mapping[str, Call]], what: str, rounds: int, callers: int = 1) -> dict[str, Seconds]:
    """Seconds that a call of `what` takes of each model, asked in turn, every other round in reverse; of several
    `callers` at once, the time of all by the number of calls."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    calls_of_one = _in_a_row([measured[what] for measured in models.values()], callers)
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


def _in_a_row(measured: Sequence[Call], callers: int) -> int:
    """How often a model is called in its turn: for a fifth of a second, since a server runs the same one again and
    again and has its weights in the cache; at least twice of several callers, who start one after the other."""
    for call in measured:
        call()  # TensorFlow prepares the graph
    began = time.perf_counter()
    for call in measured:
        call()
    one = (time.perf_counter() - began) / len(measured)
    return max(1 if callers == 1 else 2, round(_TURN_S / one))


def _times(call: Call, count: int) -> None:
    for _ in range(count):
        call()


def times_as_fast(others: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Of each round: what slows the machine for a while slows both sides of it."""
    return [other / one for other, one in zip(others, ours, strict=True)]


def machine() -> str:
    """Processor, cores, and which short number types it computes with."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    short = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {', '.join(short) or 'no bfloat16'}"


def build(variant: str, root: Path) -> int:
    """Writes an export of each name into `root`; the side of the images that they take."""
    model = recipes.load(bundle(), "imagenet").build(Options(variant))
    assert model.network is not None
    assert model.scaled_jpeg is not None
    size = model.network.inputs["images"].shape[1]
    assert size is not None
    written = graph.trace(model.network)
    folded, _ = fold.fold_batch_norm(written)
    lowered, _ = precision.in_bfloat16(folded)
    ours, bfloat16 = (pieces.in_pieces(traced)[0] for traced in (folded, lowered))
    network = as_keras(written)
    usual_export.save(usual_way(model, size, filtered=False), network, root / _USUAL)
    usual_export.save(usual_way(model, size, filtered=True), network, root / _ONE_PASS)
    graph.save(model, written, root / _AS_WRITTEN, freeze=False)
    graph.save(model, ours, root / _OURS, freeze=True)
    graph.save(model, bfloat16, root / _BFLOAT16, freeze=True)
    graph.save(model.scaled_jpeg(), bfloat16, root / _SCALED, freeze=True)
    return size


def measure(root: Path, size: int, setting: Setting, only: Sequence[str], rounds: int, say: bool) -> dict[str, Any]:
    """Results by measurement, of those whose name holds one of `only`."""
    models = {name: calls(root / name, images(bundle().samples), size, setting.threads) for name in _NAMES}
    wanted = [what for what in models[_OURS] if any(text in what for text in only)]
    if say:
        print(f"\n{setting}; the last three / usual way; / one pass; / as written\n{'images a second':24}", end="")
        print("".join(f"{name:>14}" for name in _NAMES))
    results = {}
    for what in wanted:
        seconds = in_turn(models, what, rounds, setting.callers)
        results[what] = _result(seconds, int(what.rpartition(" ")[2]))
        if say:
            _print(what, results[what])
    return results


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Its result, from a process of its own, in which no session has been."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="lite0")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--settings",
        nargs="+",
        type=Setting.read,
        default=[Setting(RENDERED, 1), Setting(RENDERED, os.cpu_count() or 1)],
        metavar="THREADSxCALLERS",
        help="threads 1: as `servekit render` sets the server's flags, 0: TensorFlow's own; callers at once; default: "
        "1x1 and as many callers as cores",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", default=[""], help="measurements whose name holds one, e.g. 'batch 8'"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{machine()}; TensorFlow {tf.__version__}", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        size = alone(build, options.variant, Path(temporary))
        for setting in options.settings:
            asked = (Path(temporary), size, setting, options.only, options.rounds, not options.json)
            found.append({**asdict(setting), "results": alone(measure, *asked)})
    if options.json:
        facts = {"machine": machine(), "tensorflow": tf.__version__, "rounds": options.rounds}
        print(json.dumps({**facts, "variant": options.variant, "settings": found}, indent=2))


def _result(seconds: Mapping[str, Seconds], batch: int) -> dict[str, Any]:
    return {
        name: {
            "images_per_second": batch / statistics.median(found.wall),
            "cpu_ms_per_image": 1000 * statistics.median(found.cpu) / batch,
            "times_the_usual": times_as_fast(seconds[_USUAL].wall, found.wall),
            "times_one_pass": times_as_fast(seconds[_ONE_PASS].wall, found.wall),
            "times_as_written": times_as_fast(seconds[_AS_WRITTEN].wall, found.wall),
        }
        for name, found in seconds.items()
    }


def _print(what: str, result: Mapping[str, Any]) -> None:
    """Medians of the rounds' ratios, with the least and the most of them."""
    rates = "".join(f"{found['images_per_second']:14.1f}" for found in result.values())
    ratios = "; ".join(
        ", ".join(_spread(result[name][key]) for name in (_OURS, _BFLOAT16, _SCALED))
        for key in ("times_the_usual", "times_one_pass", "times_as_written")
    )
    print(f"{what:24}{rates}   {ratios}", flush=True)


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
