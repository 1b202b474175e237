"""Check `permissions`: may the server's user read models/ and config/rendered, and do links hold inside a mount?"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.doctor.finding import Finding, Severity, error, listed, note, warning

SECONDS = 2.0
"""A tree that takes longer to walk is judged by what was seen."""


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """One folder that the server reads. Paths are relative to the bundle."""

    place: str
    entries: int
    closed: tuple[str, ...] = ()
    """Files and folders that the server's user may not read."""
    outward_links: tuple[str, ...] = ()
    """Links that point out of the folder, or are absolute: nothing is there inside a container's mount."""
    dangling_links: tuple[str, ...] = ()
    whole: bool = True
    """False: it was too large to walk to the end."""


@dataclass(frozen=True, slots=True)
class PermissionFacts:
    trees: tuple[TreeFacts, ...]
    reader: str
    """Who reads: `user 10001` of the container, or `this user`."""
    in_container: bool
    umask: int
    selinux_enforcing: bool = False


def gather(folders: Iterable[Path], root: Path, *, user: str | None) -> PermissionFacts:
    """`user`: `10001:10001` or `10001` of a container; None for a server that runs as this user."""
    uid, gid = _ids(user) if user is not None else (os.geteuid(), os.getegid())
    trees = tuple(_walk(folder, root, uid, gid, in_container=user is not None) for folder in folders if folder.is_dir())
    enforcing = Path("/sys/fs/selinux/enforce")
    return PermissionFacts(
        trees,
        "this user" if user is None else f"user {uid} of the container",
        user is not None,
        _umask(),
        selinux_enforcing=enforcing.exists() and enforcing.read_text().strip() == "1",
    )


def _ids(user: str) -> tuple[int, int]:
    first, _, second = user.partition(":")
    uid = int(first) if first.isdigit() else 0
    return uid, int(second) if second.isdigit() else uid


def _umask() -> int:
    """Of this process. Linux tells it without setting it, which other threads would see."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _walk(folder: Path, root: Path, uid: int, gid: int, *, in_container: bool) -> TreeFacts:
    groups = {gid} if in_container else {gid, *os.getgroups()}
    all_powerful = uid == 0 and not in_container  # root in a container without capabilities obeys the modes
    closed, outward, dangling, count, deadline = [], [], [], 0, time.monotonic() + SECONDS
    whole = True
    if not all_powerful and not _readable(folder.stat(), uid, groups):
        closed.append(folder)
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *files]:
            path = Path(base) / name
            count += 1
            if path.is_symlink():
                target = path.readlink()
                if not path.exists():
                    dangling.append(path)
                elif target.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
                    outward.append(path)
            if all_powerful or name.startswith("."):
                continue
            try:
                if path.exists() and not _readable(path.stat(), uid, groups):
                    closed.append(path)
            except OSError:
                closed.append(path)
        if time.monotonic() > deadline:
            whole = False
            break
    shown = [tuple(_shown(path, root) for path in paths) for paths in (closed, outward, dangling)]
    return TreeFacts(_shown(folder, root), count, shown[0], shown[1], shown[2], whole)


def _readable(facts: os.stat_result, uid: int, groups: set[int]) -> bool:
    """Read, and for a folder also enter."""
    need = 0o5 if stat.S_ISDIR(facts.st_mode) else 0o4
    shift = 6 if facts.st_uid == uid else 3 if facts.st_gid in groups else 0
    return facts.st_mode >> shift & need == need


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def judge(facts: PermissionFacts) -> Iterator[Finding]:
    for tree in facts.trees:
        if tree.closed:
            yield error(
                "permissions.closed",
                tree.place,
                f"{facts.reader} may not read {listed(tree.closed)}",
                f"chmod -R a+rX {tree.place}",
            )
        if tree.outward_links:
            severity = Severity.ERROR if facts.in_container else Severity.NOTE
            yield Finding(
                "permissions.link-outward",
                severity,
                tree.place,
                f"{listed(tree.outward_links)}: a link that leads out of the folder, to nothing inside a "
                "container's mount",
                f"cp -rL {tree.outward_links[0]} COPY && mv it in the link's place",
            )
        if tree.dangling_links:
            yield warning(
                "permissions.link-dangling",
                tree.place,
                f"{listed(tree.dangling_links)} leads to nothing",
                f"rm {tree.dangling_links[0]}",
            )
        if not tree.whole:
            yield note("permissions.too-large", tree.place, f"only its first {tree.entries} entries were looked at")
    if facts.in_container and facts.umask & 0o004:
        yield note(
            "permissions.umask",
            f"umask {facts.umask:04o}",
            "files that you copy into models/ by hand will be closed to the container's user (servekit's own "
            "exports are not)",
            "umask 022, or chmod -R a+rX models after copying",
        )
    if facts.in_container and facts.selinux_enforcing:
        yield note(
            "permissions.selinux",
            "SELinux",
            "is enforcing: a mounted folder without the container label is closed",
            "sudo chcon -Rt container_file_t models config prometheus grafana",
        )


def looked_at(facts: PermissionFacts) -> str:
    return (
        f"{sum(tree.entries for tree in facts.trees)} files and folders, read as {facts.reader}" if facts.trees else ""
    )
