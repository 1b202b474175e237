"""The usual way of exporting a classifier beside ours: what servekit.export.benchmark measures."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.performance.section import Plot, Ratio, Section, Skipped
from benchmarks.performance.stand import Stand

TITLE = "The usual export against ours"
ABOUT = (
    "EfficientNet-Lite0 with the preprocessing and the graph of most tutorials (`decode_image`, one `tf.image.resize`, "
    "`tf.map_fn`, nothing folded, variables) beside `servekit export`, all in one process, asked in turn, each by two "
    "callers at once, an operation in one thread. "
    "`one pass` is the usual way with the crop and the antialiased filter that the weights were trained with, which is "
    "what gives the right answers. The last two are named options of `servekit export`, each with a gate of its own: "
    "`--precision bfloat16`, and `--scaled-jpeg` with it ([exporting.md](exporting.md))."
)

OURS = ("ours", "bfloat16", "bf16, scaled")


def _goal(what: str, name: str, other: str) -> float | None:
    """The network alone is held against 1.5; from bytes, batches of 8 with the named options against 1.6 times the way
    that does the same work."""
    if what.startswith("tensor"):
        return 1.5 if name == "ours" else None
    return 1.6 if name == "bf16, scaled" and other == "one pass" and what.endswith("batch 8") else None


def measure(stand: Stand) -> Section:
    rounds = str(2 * stand.rounds + 1)
    command = ["-m", "servekit.export.benchmark", "--json", "--threads", "1", "--callers", "2", "--rounds", rounds]
    done = subprocess.run(
        [sys.executable, *command], cwd=stand.bundle.root, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise Skipped(f"servekit.export.benchmark failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    results = json.loads(done.stdout)["results"]
    names = list(next(iter(results.values())))
    rows = tuple(
        (what, name, round(found[name]["images_per_second"], 1), round(found[name]["cpu_ms_per_image"], 2))
        for what, found in results.items()
        for name in names
    )
    ratios = tuple(
        Ratio(f"{what}: images a second, {name} / {other}", round(found[name][key], 3), least=_goal(what, name, other))
        for what, found in results.items()
        for name in OURS
        for other, key in (("usual way", "times_the_usual"), ("one pass", "times_one_pass"))
        if name in found
    )
    shown = [what for what in results if what.endswith("batch 8")] or list(results)
    bars = {what: {name: round(results[what][name]["images_per_second"], 1) for name in names} for what in shown}
    return Section(
        ("input", "export", "images a second", "CPU ms an image"),
        rows,
        ratios,
        Plot("images a second, batches of 8", "", bars=bars),
    )
