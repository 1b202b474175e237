"""The usual way of exporting a classifier beside ours: what servekit.export.benchmark measures."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.performance.section import Plot, Ratio, Section, Skipped
from benchmarks.performance.stand import Stand

TITLE = "The usual export against ours"
ABOUT = (
    "EfficientNet-Lite0 as most tutorials export it (a Keras model, `decode_image`, one `tf.image.resize`, "
    "`tf.map_fn`, nothing folded, variables) beside `servekit export`, all in one process, asked in turn. "
    "`one pass` is the usual way with the crop and the antialiased filter that the weights were trained with, which is "
    "what gives the right answers. The last two are named options of `servekit export`, each with a gate of its own: "
    "`--precision bfloat16`, and `--scaled-jpeg` with it ([exporting.md](exporting.md)). `as written` is ours with "
    "nothing folded or frozen, whose batch normalisation TensorFlow fuses better than Keras's. With the threads that "
    "`servekit render` gives the server, each request in its own; by one caller and by two at once."
)

ONE_PASS, USUAL, AS_WRITTEN = "one pass", "usual way", "as written"
WANTED = ("0, batch 8", "tensor")
SETTINGS = {"1x1": "1 caller", "1x2": "2 callers"}
_MOST_S = 900


def _goal(what: str, name: str, other: str) -> float | None:
    """The network alone is held against 1.5; from bytes, batches of 8 with the named options against 1.6 times the way
    that does the same work."""
    if other != ONE_PASS:
        return None
    if what.startswith("tensor"):
        return 1.5 if name == "ours" else None
    return 1.6 if name == "bf16, scaled" else None


def measure(stand: Stand) -> Section:
    command = ["-m", "servekit.export.benchmark", "--json", "--rounds", str(stand.rounds)]
    asked = ["--only", *WANTED, "--settings", *SETTINGS]
    try:
        done = subprocess.run(
            [sys.executable, *command, *asked],
            cwd=stand.bundle.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=_MOST_S,
        )
    except subprocess.TimeoutExpired:
        raise Skipped(f"servekit.export.benchmark was not done after {_MOST_S} s: the machine has other work") from None
    if done.returncode:
        raise Skipped(f"servekit.export.benchmark failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    document = json.loads(done.stdout)
    found = dict(zip(SETTINGS.values(), (one["results"] for one in document["settings"]), strict=True))
    return section(found)


def section(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Section:
    """`found`: results by setting, measurement and export."""
    rows = tuple(
        (setting, what, name, round(one["images_per_second"], 1), round(one["cpu_ms_per_image"], 2))
        for setting, results in found.items()
        for what, exports in results.items()
        for name, one in exports.items()
    )
    ratios = tuple(
        _ratio(setting, what, name, other, results[what][name][key])
        for setting, results in found.items()
        for what in results
        for name in (("ours", "bfloat16") if what.startswith("tensor") else ("ours", "bf16, scaled"))
        for other, key in _others(what)
    )
    first = next(iter(found.values()))
    shown = [what for what in first if what.endswith("batch 8")]
    bars = {what: {name: round(one["images_per_second"], 1) for name, one in first[what].items()} for what in shown}
    return Section(
        ("callers", "input", "export", "images a second", "CPU ms an image"),
        rows,
        ratios,
        Plot("images a second, batches of 8, 1 caller", "", bars=bars),
    )


def _others(what: str) -> Sequence[tuple[str, str]]:
    """What ours are held against, and the key of the ratios: of a tensor both usual ways are the same network."""
    other = (AS_WRITTEN, "times_as_written") if what.startswith("tensor") else (USUAL, "times_the_usual")
    return (ONE_PASS, "times_one_pass"), other


def _ratio(setting: str, what: str, name: str, other: str, pairs: Sequence[float]) -> Ratio:
    value, shown = round(statistics.median(pairs), 3), tuple(round(pair, 3) for pair in pairs)
    return Ratio(f"{setting}: {what}, {name} / {other}", value, shown, least=_goal(what, name, other))
