"""Rounds of load that take turns, so that whatever else the machine does hits all sides alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servekit.bench.generator import Generator
from servekit.bench.processor import cores, cpu_seconds, machine_cpu_seconds
from servekit.bench.report import Run, judged
from servekit.bench.traffic import Job, Request, Sample, Shape, together

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: a protocol and a target, with the requests for it."""

    protocol: str
    target: str
    url: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """`seconds` of load for each side and level, in ROUNDS parts, each after `warmup_s` that do not count."""

    seconds: float = 10.0
    warmup_s: float = 1.0
    timeout_s: float = 30.0
    batch: int = 1
    max_errors: float = 0.01
    pids: Mapping[str, int] = field(default_factory=dict)
    """Processes of this machine whose processor time is told: `server`, `gateway`."""


Progress = Callable[[str, float, int, int], None]
"""Which load, seconds of it that are over, good answers, errors."""


def measure(sides: Sequence[Side], shapes: Sequence[Shape], settings: Settings, progress: Progress) -> list[Run]:
    """Level by level; at each the sides take turns."""
    with Generator() as generator:
        return [run for shape in shapes for run in _level(generator, sides, shape, settings, progress)]


def _level(
    generator: Generator, sides: Sequence[Side], shape: Shape, settings: Settings, progress: Progress
) -> list[Run]:
    samples: dict[Side, list[Sample]] = {side: [] for side in sides}
    used: dict[Side, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(ROUNDS):
        for side in sides if number % 2 == 0 else reversed(sides):
            sample, cpu = _round(generator, side, shape, settings, number, progress)
            samples[side].append(sample)
            used[side].append(cpu)
    return [
        judged(
            together(samples[side]),
            shape,
            protocol=side.protocol,
            target=side.target,
            batch=settings.batch,
            used=_means(used[side]),
            max_errors=settings.max_errors,
        )
        for side in sides
    ]


def _round(
    generator: Generator, side: Side, shape: Shape, settings: Settings, number: int, progress: Progress
) -> tuple[Sample, dict[str, float]]:
    """And cores in use meanwhile: by each of the processes, and `machine`, by everything."""
    seconds, began = settings.seconds / ROUNDS, time.monotonic()
    job = Job(side.url, side.requests, shape, seconds, settings.warmup_s, settings.timeout_s, seed=number)
    title = f"{side.protocol} {side.target}".strip() + f", {shape}, round {number + 1} of {ROUNDS}"
    before = _cpu(settings.pids)
    sample = generator.run(job, lambda good, bad: progress(title, time.monotonic() - began, good, bad))
    after, lasted = _cpu(settings.pids), time.monotonic() - began
    return sample, {name: (after[name] - before[name]) / lasted for name in before if name in after}


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    found = {name: cpu_seconds(pid) for name, pid in pids.items()} | {"machine": machine_cpu_seconds()}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _means(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(one) for one in rounds))
    return {name: sum(one[name] for one in rounds) / len(rounds) for name in names}


def machine() -> Mapping[str, object]:
    """Where it was measured."""
    import platform

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
