"""Memory, age and processor time of a process, from Linux' /proc; where there is none, nothing is told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.monitoring.samples import Sample

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1; a container sees its own as root


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    resident_bytes: int
    started: float
    """Unix time, seconds."""
    cpu_seconds: float


def process_samples(usage: ProcessUsage | None, memory_limit_bytes: int | None) -> Iterator[Sample]:
    if usage is None:
        return
    yield Sample("servekit_server_resident_memory_bytes", (), usage.resident_bytes)
    yield Sample("servekit_server_start_time_seconds", (), usage.started)
    yield Sample("servekit_server_cpu_seconds_total", (), usage.cpu_seconds)
    if memory_limit_bytes is not None:
        yield Sample("servekit_server_memory_limit_bytes", (), memory_limit_bytes)


def process_usage(pid: int | str = "self", proc: Path = PROC) -> ProcessUsage | None:
    """None where the process is gone or nothing can be read. Fields as in proc(5)."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot = next(line.split()[1] for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    # Field 3, the state, is the first after the name, which may hold spaces and brackets itself.
    user, system, start, pages = (int(fields[number - 3]) for number in (14, 15, 22, 24))
    return ProcessUsage(pages * os.sysconf("SC_PAGE_SIZE"), int(boot) + start / ticks, (user + system) / ticks)


def copied_within(seconds: float, pid: int, proc: Path) -> bool:
    """Whether the copy of this process' stat is so young."""
    try:
        return time.time() - (proc / str(pid) / "stat").stat().st_mtime <= seconds
    except OSError:
        return False


def find_process(program: str, proc: Path = PROC) -> int | None:
    """The oldest process whose program, or script, has this file name; None where there is none to be seen."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")[:2]
        except OSError:
            continue  # ended meanwhile
        if program in {os.fsdecode(word).rpartition("/")[2] for word in command}:
            found.append(int(folder.name))
    return min(found, default=None)


def memory_limit_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """What this process and its neighbours may use: its container's limit, or the machine's memory."""
    limits = [_machine_bytes(proc), *(_limit(cgroups / name) for name in _LIMIT_FILES)]
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_bytes(proc: Path) -> int | None:
    try:
        line = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max": none
