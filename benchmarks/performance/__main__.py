"""Measures what docs/performance.md says, and writes it: `scripts/performance [--only PART ...] [--quick]`.

Parts take turns within themselves; each is written as soon as it is measured, so that a run that was stopped loses only
the part under way. The exit status is 1 when a ratio misses its goal, or a part could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.performance import batching, cold_start, exports, gateway, in_process, models, page, protocols
from benchmarks.performance.section import Skipped
from benchmarks.performance.stand import Stand
from servekit.atomic import write_all_atomically
from servekit.bench.generator import Generator
from servekit.bench.session import machine
from servekit.cli.interrupts import interrupt_on
from servekit.cli.output import say
from servekit.engine.choose import choose, probes
from servekit.errors import ExitCode, ServekitError
from servekit.paths import Bundle, bundle

PARTS: Mapping[str, ModuleType] = {
    "batching": batching,
    "protocols": protocols,
    "in_process": in_process,
    "cold_start": cold_start,
    "models": models,
    "gateway": gateway,
    "exports": exports,
}
ROUNDS, ROUND_S = 5, 2.0
QUICK_ROUNDS, QUICK_ROUND_S = 2, 0.4
RESULTS = "performance/results.json"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/performance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART",
                        help=f"one of {', '.join(PARTS)}; may be given again")  # fmt: skip
    parser.add_argument("--missing", action="store_true", help="parts that are not in the results yet")
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that everything runs")
    parser.add_argument("--rounds", type=int, help=f"that take turns  [default: {ROUNDS}]")
    parser.add_argument("--seconds", type=float, help=f"of load in each  [default: {ROUND_S:g}]")
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "embedded"])
    parser.add_argument("--out", type=Path, help="folder for performance.md and performance/  [default: docs]")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page again")
    options = parser.parse_args(arguments)
    interrupt_on(signal.SIGTERM, signal.SIGINT)
    here = bundle()
    out = options.out or here.root / "docs"
    results = _read(out / RESULTS)
    wanted = options.only or [name for name in PARTS if not (options.missing and "section" in results.get(name, {}))]
    try:
        for name in [] if options.render else wanted:
            results[name] = _measured(name, options, here)
            _write(out, results)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except ServekitError as error:
        say(f"error: {error}")
        return error.exit_code
    _write(out, results)
    for line in page.missed(results):
        say(f"missed: {line}")
    complete = all("section" in results.get(name, {}) for name in wanted)
    return ExitCode.DONE if complete and not list(page.missed(results)) else ExitCode.NO


def _measured(name: str, options: argparse.Namespace, here: Bundle) -> dict[str, Any]:
    part, began = PARTS[name], time.monotonic()
    engine, _ = choose(options.engine, probes())
    rounds, round_s = (QUICK_ROUNDS, QUICK_ROUND_S) if options.quick else (ROUNDS, ROUND_S)
    rounds, round_s = options.rounds or rounds, options.seconds or round_s
    told = {
        "title": part.TITLE,
        "about": part.ABOUT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": _command(name, options),
        "machine": machine(),
        "engine": engine.name,
        "rounds": rounds,
        "round_s": round_s,
        "quick": options.quick,
        "load": round(os.getloadavg()[0], 2),
    }
    work = Path(tempfile.mkdtemp(prefix="servekit-performance-"))
    try:
        with Generator() as generator:
            stand = Stand(here, here.state / "performance", work, engine, generator, rounds, round_s)
            told["section"] = part.measure(stand).document()
    except (Skipped, RuntimeError, ServekitError, SystemExit) as error:  # the last: h2load's failures
        told["skipped"] = str(error).splitlines()[0]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    told["seconds"] = round(time.monotonic() - began, 1)
    say(f"{name}: {told.get('skipped', 'measured')}, {told['seconds']:.0f} s")
    return told


def _command(name: str, options: argparse.Namespace) -> str:
    given = {"--rounds": options.rounds, "--seconds": options.seconds}
    parts = ["./scripts/performance", "--only", name, *(["--quick"] if options.quick else [])]
    return " ".join([*parts, *(f"{key} {value:g}" for key, value in given.items() if value)])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _write(out: Path, results: Mapping[str, Any]) -> None:
    ordered = {name: results[name] for name in PARTS if name in results}
    files = {out / "performance" / f"{name}.svg": page.plot_of(part["section"]["plot"])
             for name, part in ordered.items() if "section" in part}  # fmt: skip
    files[out / RESULTS] = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
    files[out / "performance.md"] = page.page_of(ordered)
    write_all_atomically(files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
