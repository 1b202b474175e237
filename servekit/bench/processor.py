"""Processor time: of processes, of the machine, and what it says about who was at the limit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

FULL = 0.9
"""Share of the cores in use from which on there is no more to be had from them."""


def cpu_seconds(pid: int | None) -> float | None:
    """Of a process and those it started (a container's first one is an init) so far, user and system; None where that
    cannot be seen. Fields of /proc/PID/stat: proc(5)."""
    if pid is None or _stat(Path(f"/proc/{pid}/stat")) is None:
        return None
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(path)) is not None:
            one = int(path.parent.name)
            parents[one] = int(fields[1])
            used[one] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    wanted, total = {pid}, 0.0
    while wanted:
        total += sum(used.get(one, 0.0) for one in wanted)
        wanted = {one for one, parent in parents.items() if parent in wanted}
    return total


def machine_cpu_seconds() -> float | None:
    """Of everything that ran so far; None where that cannot be seen. Fields of /proc/stat: proc(5)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bottleneck(used: Mapping[str, float], machine: float | None, cores: int, *, client_bound: bool) -> str:
    """Who was at the limit: `client`, `server` or `gateway` (of those in `used`, cores in use), `machine` (all of them
    together, or programs that have no part in it), or `nothing`: what is missing is load, or it waits. Pure."""
    if client_bound:
        return "client"
    if machine is not None and machine < FULL * cores:
        return "nothing"
    if not used or (machine is None and sum(used.values()) < FULL * cores):
        return "unknown" if machine is None else "machine"
    most = max(used, key=lambda name: used[name])
    return most if used[most] >= 0.7 * cores else "machine"


def _stat(path: Path) -> list[str] | None:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return None
