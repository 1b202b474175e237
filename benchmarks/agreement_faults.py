"""What the agreement of two versions says of broken preprocessing, for the table in docs/analysis.md.

    python -m benchmarks.agreement_faults lite0 lite2 [--stable lite0] [--photographs FOLDER]

Stable is an EfficientNet-Lite with its own preprocessing; canaries are the networks named, each with sound and with
broken preprocessing, all of export/imagenet.py. They run in this process, by the analysis' own code.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from servekit.analysis import classes, faults
from servekit.config.canary import Agreement
from servekit.export import recipes
from servekit.export.preprocessing import crop_box
from servekit.export.recipe import Options
from servekit.paths import Bundle

ROOT = Path(__file__).resolve().parents[1]
Pixels = NDArray[np.float32]
STRICT = Agreement(top=1, probability_shift=0.2)

BROKEN: dict[str, Callable[[Pixels], Any]] = {
    "sound": lambda a: (a - 127) / 128,
    "red and blue exchanged": lambda a: (a[..., ::-1] - 127) / 128,
    "[0, 1] for [-1, 1]": lambda a: a / 255,
    "mean not subtracted": lambda a: a / 128,
    "mean and deviation of another network": lambda a: (a / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225),
    "half the contrast": lambda a: (a - 127) / 256,
    "not normalised": lambda a: a,
    "scaled twice": lambda a: ((a - 127) / 128 - 127) / 128,
    "colours lost": lambda a: (np.repeat(a.mean(axis=-1, keepdims=True), 3, axis=-1) - 127) / 128,
    "upside down": lambda a: (a[::-1] - 127) / 128,
}
GEOMETRY = ("squeezed into a square", "no crop", "upper left corner", "twice enlarged", "nearest neighbour")


def prepared(data: bytes, size: int, fault: str) -> Pixels:
    """float32 [size, size, 3]: the network's input."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(image.size)
    part = {"no crop": 1.0, "twice enlarged": 0.5}.get(fault, size / (size + 32))
    top, left, cut = crop_box(image.height, image.width, part)
    if fault == "upper left corner":
        image = image.crop((0, 0, round(side * part), round(side * part)))
    elif fault != "squeezed into a square":
        image = image.crop((left, top, left + cut, top + cut))
    method = Image.Resampling.NEAREST if fault == "nearest neighbour" else Image.Resampling.BICUBIC
    pixels = np.asarray(image.resize((size, size), method), np.float32)
    return np.asarray(BROKEN.get(fault, BROKEN["sound"])(pixels), np.float32)


class Version:
    """A network with a preprocessing; what it answered is kept."""

    def __init__(self, network: Any, size: int, fault: str) -> None:
        self._network, self._size, self._fault = network, size, fault
        self._known: dict[bytes, Any] = {}

    def __call__(self, data: bytes) -> faults.Ranked:
        if data not in self._known:
            scores, ids = self._network(prepared(data, self._size, self._fault)[None])
            self._known[data] = dict(zip(ids[0].numpy().tolist(), scores[0].numpy().tolist(), strict=True))
        answer: faults.Ranked = self._known[data]
        return answer


def network(variant: str) -> tuple[Any, int]:
    """Images to the probabilities and numbers of the five best classes; and the size of images."""
    import tensorflow as tf

    made = recipes.load(Bundle(ROOT), "imagenet").build(Options(variant=variant)).network
    assert made is not None
    [(name, pixels)] = made.inputs.items()
    size = pixels.shape[1]
    assert size is not None
    return tf.function(lambda images: tf.math.top_k(tf.nn.softmax(made.function(**{name: images})), 5)), size


def alike(stable: faults.Ranked, canary: faults.Ranked, agreement: Agreement) -> bool:
    mine, other = (
        {"probabilities": np.array(list(one.values())), "class_ids": np.array(list(one))} for one in (stable, canary)
    )
    return not classes.differ(mine, other, "probabilities", agreement.top, agreement.probability_shift)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("canaries", nargs="+", choices=["lite0", "lite1", "lite2"])
    parser.add_argument("--stable", default="lite0", choices=["lite0", "lite1", "lite2"])
    parser.add_argument("--photographs", type=Path, default=ROOT / "export" / "samples")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--faults", nargs="*", default=[*BROKEN, *GEOMETRY])
    given = parser.parse_args()
    networks = {variant: network(variant) for variant in {given.stable, *given.canaries}}
    files = [path.read_bytes() for path in sorted(given.photographs.iterdir()) if path.suffix != ".md"]
    views = faults.views(files, given.count)
    stable = Version(*networks[given.stable], "sound")
    print(f"{len(views)} pictures and crops\n")
    print("| canary | default | strict | overlap | likeliest fault | gain | t | told |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in given.canaries:
        for fault in given.faults:
            canary, suspicion = Version(*networks[variant], fault), faults.Suspicion(given.count)
            shares = []
            for agreement in (Agreement(), STRICT):
                pairs = ((stable(data), canary(data)) for data in (view.file() for view in views))
                shares.append(np.mean([alike(*pair, agreement) for pair in pairs]))
            for view in views:
                suspicion.look(stable, canary, view)
            name, gain, t = suspicion.likeliest()
            overlap = suspicion.overlap()
            told = "yes" if str(suspicion) else "no"
            print(f"| {variant}, {fault} | {shares[0]:.2f} | {shares[1]:.2f} | {overlap:.2f} | {name} | {gain:.2f} | "
                  f"{t:.1f} | {told} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
