"""Rounds of load that take turns, so that whatever else the machine does hits all sides alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.bench.generator import Generator
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
    server_pid: int | None = None


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
    used: dict[Side, list[float]] = {side: [] for side in sides}
    for number in range(ROUNDS):
        for side in sides if number % 2 == 0 else reversed(sides):
            sample, cpu = _round(generator, side, shape, settings, number, progress)
            samples[side].append(sample)
            used[side] += [cpu] if cpu is not None else []
    return [_judged(side, shape, settings, together(samples[side]), used[side]) for side in sides]


def _round(
    generator: Generator, side: Side, shape: Shape, settings: Settings, number: int, progress: Progress
) -> tuple[Sample, float | None]:
    seconds, began = settings.seconds / ROUNDS, time.monotonic()
    job = Job(side.url, side.requests, shape, seconds, settings.warmup_s, settings.timeout_s, seed=number)
    title = f"{side.protocol} {side.target}".strip() + f", {shape}, round {number + 1} of {ROUNDS}"
    before = cpu_seconds(settings.server_pid)
    sample = generator.run(job, lambda good, bad: progress(title, time.monotonic() - began, good, bad))
    after, lasted = cpu_seconds(settings.server_pid), time.monotonic() - began
    return sample, None if before is None or after is None else (after - before) / lasted


def _judged(side: Side, shape: Shape, settings: Settings, sample: Sample, used: Sequence[float]) -> Run:
    return judged(
        sample,
        shape,
        protocol=side.protocol,
        target=side.target,
        batch=settings.batch,
        server_cpu=sum(used) / len(used) if used else None,
        max_errors=settings.max_errors,
    )


def cpu_seconds(pid: int | None) -> float | None:
    """Of a process so far, user and system; None where that cannot be seen."""
    if pid is None:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float | None:
    """Of all processes and the kernel so far; None where that cannot be seen. Fields of /proc/stat: proc(5)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


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
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
