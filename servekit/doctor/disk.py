"""Check `disk`: room for models, logs, images and metrics."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.doctor.finding import Finding, error, megabytes, warning

FULL = 200 * 2**20
"""Less than this and files are written half."""
TIGHT = 2 * 2**30
"""An export needs 0.5 GB, an image more than that."""


SMALL = 2**30
"""A file system under this was made so on purpose, such as the tmpfs of the container `setup`."""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    purpose: str
    folder: str
    device: int
    free_bytes: int
    total_bytes: int
    free_inodes: int | None
    """None where the file system does not count them (btrfs)."""
    writable: bool = True


def gather(folders: Mapping[str, Path]) -> list[DiskFacts]:
    """By purpose; a folder that does not exist yet lies where its first existing parent is."""
    found = []
    for purpose, folder in folders.items():
        here = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        try:
            usage, system = shutil.disk_usage(here), os.statvfs(here)
            device = here.stat().st_dev
        except OSError:
            continue
        inodes = system.f_favail if system.f_files else None
        found.append(
            DiskFacts(purpose, str(here), device, usage.free, usage.total, inodes, not system.f_flag & os.ST_RDONLY)
        )
    return found


def judge(disks: Iterable[DiskFacts]) -> Iterator[Finding]:
    """One finding a file system, named by all that lies on it."""
    by_device: dict[int, list[DiskFacts]] = {}
    for disk in disks:
        by_device.setdefault(disk.device, []).append(disk)
    for group in by_device.values():
        small = group[0].total_bytes < SMALL
        first, purposes = group[0], ", ".join(disk.purpose for disk in group)
        place = f"{first.folder} ({purposes})"
        look = f"du -xhd1 {first.folder} | sort -h | tail; docker system df"
        if first.free_bytes < FULL and not small:
            yield error(
                "disk.full", place, f"{megabytes(first.free_bytes)} free of {megabytes(first.total_bytes)}", look
            )
        elif first.free_bytes < TIGHT and not small:
            yield warning(
                "disk.tight",
                place,
                f"{megabytes(first.free_bytes)} free of {megabytes(first.total_bytes)}: "
                "an export or an image may not fit",
                look,
            )
        if first.free_inodes is not None and first.free_inodes < 1000:
            yield error("disk.no-inodes", place, f"{first.free_inodes} files can still be made", look)
        if not first.writable:
            yield error(
                "disk.read-only", place, "the file system is mounted read-only", f"mount -o remount,rw {first.folder}"
            )


def looked_at(disks: Iterable[DiskFacts]) -> str:
    least = min(disks, key=lambda disk: disk.free_bytes, default=None)
    return f"{least.free_bytes / 2**30:.0f} GB free" if least else ""
