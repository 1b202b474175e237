"""The source: looks at base paths and says which versions the manager should aspire to."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servekit.errors import Code, StatusError
from servekit.server.options import INT64_MAX

logger = logging.getLogger(__name__)

AspiredVersions = Mapping[int, Path]
"""Version to its folder."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The `latest` highest versions; or `specific` ones; or, with neither, all that there are."""

    latest: int | None = None
    specific: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class MonitoredServable:
    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy(latest=1)


def version_policy(message: Any) -> VersionPolicy:
    """From a `ServableVersionPolicy` message; unset means the latest one, and so does `latest { num_versions: 0 }`."""
    choice = message.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy()
    if choice == "specific":
        return VersionPolicy(specific=frozenset(message.specific.versions))
    return VersionPolicy(latest=max(message.latest.num_versions, 1))


def version_number(folder: str) -> int | None:
    """The version that a folder's name stands for, as absl::SimpleAtoi reads an int64 (`007` is 7); None if none."""
    if not re.fullmatch(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*", folder):
        return None
    number = int(folder)
    return number if -INT64_MAX - 1 <= number <= INT64_MAX else None


def index_by_version(folders: Iterable[str]) -> dict[int, str]:
    """Version to folder name; of several names of one version the last in alphabetical order counts."""
    found: dict[int, str] = {}
    for folder in sorted(folders):
        number = version_number(folder)
        if number is None:
            continue
        if number in found:
            logger.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                number,
                folder,
                found[number],
            )
        found[number] = folder
    return found


def first_of_each_version(folders: Iterable[str]) -> dict[int, str]:
    """Version to folder name; of several names of one version the first in alphabetical order counts."""
    found: dict[int, str] = {}
    for folder in sorted(folders, reverse=True):
        number = version_number(folder)
        if number is not None:
            found[number] = folder
    return found


def folders_of(policy: VersionPolicy, names: Iterable[str]) -> dict[int, str]:
    """Where a policy's versions are; of two folders for one version it depends on the policy which one counts."""
    if policy == VersionPolicy():
        return first_of_each_version(names)
    present = set(names)
    if policy.specific is not None and all(str(version) in present for version in policy.specific):
        return {version: str(version) for version in policy.specific}
    return index_by_version(names)


def choose(policy: VersionPolicy, versions: Iterable[int]) -> list[int]:
    """The versions to aspire to among those that exist, highest first."""
    highest_first = sorted(versions, reverse=True)
    if policy.specific is not None:
        return [v for v in highest_first if v in policy.specific]
    return highest_first[: policy.latest]


def local_path(base_path: str) -> Path:
    """The folder of a base path or `file://` URI. Raises StatusError for other schemes."""
    scheme = urlsplit(base_path).scheme if "://" in base_path else ""
    if scheme in ("", "file"):
        return Path(base_path.removeprefix("file://"))
    raise StatusError(Code.UNIMPLEMENTED, f"File system scheme '{scheme}' not implemented (file: '{base_path}')")


def scan(servable: MonitoredServable) -> AspiredVersions:
    """The versions of one servable that its policy asks for and that are there now.

    Raises StatusError when the base path is missing or cannot be read, so that a file system which is away for a moment
    does not look like a model without versions.
    """
    try:
        folder = local_path(servable.base_path)
        names = [child.name for child in folder.iterdir()]
    except StatusError as error:
        raise _no_base_path(servable, str(error)) from None
    except FileNotFoundError:
        raise _no_base_path(servable, f"NOT_FOUND: {servable.base_path} not found") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StatusError(Code.FAILED_PRECONDITION, f"{servable.base_path}; {reason}") from None
    folders = folders_of(servable.policy, names)
    chosen = choose(servable.policy, folders)
    for missing in sorted((servable.policy.specific or frozenset()) - set(chosen)):
        logger.warning(
            "Version %d of servable %s, which was requested to be served as a 'specific' version in the servable's "
            "version policy, was not found in the file system",
            missing,
            servable.name,
        )
    if servable.policy.specific == frozenset():
        logger.warning("No specific versions requested for servable %s.", servable.name)
    elif not chosen:
        logger.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            servable.name,
            servable.base_path,
        )
    return {version: folder / folders[version] for version in chosen}


class FileSystemStoragePathSource:
    """Polls the base paths in a thread of its own and hands every servable's versions to `set_aspired_versions`.

    poll_wait_s: seconds between two looks; 0 looks once; negative never looks.
    One base path that cannot be read stops the look for all: nothing is loaded or unloaded until it is back.
    """

    def __init__(self, set_aspired_versions: Callable[[str, AspiredVersions], None], poll_wait_s: float) -> None:
        self._set_aspired_versions = set_aspired_versions
        self._poll_wait_s = poll_wait_s
        self._lock = threading.Lock()
        self._servables: tuple[MonitoredServable, ...] = ()
        self._stopping = False
        self._look_now = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        return self._thread is not None

    @property
    def names(self) -> frozenset[str]:
        with self._lock:
            return frozenset(s.name for s in self._servables)

    def update(self, servables: Sequence[MonitoredServable]) -> None:
        """Watches these from now on. Servables that are gone are un-aspired at once; a change is looked at soon."""
        with self._lock:
            gone = {s.name for s in self._servables} - {s.name for s in servables}
            changed = self._servables != tuple(servables)
            self._servables = tuple(servables)
            if self.started:
                for name in sorted(gone):
                    self._set_aspired_versions(name, {})
        if changed:
            self._look_now.set()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="file_system_polling", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._look_now.set()

    def poll_once(self) -> None:
        with self._lock:
            try:
                found = [(s.name, scan(s)) for s in self._servables]
            except StatusError as error:
                logger.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
                return
            for name, versions in found:
                self._set_aspired_versions(name, versions)

    def _run(self) -> None:
        if self._poll_wait_s < 0:
            return
        while not self._stopping:
            due = time.monotonic() + self._poll_wait_s
            self._look_now.clear()
            self.poll_once()
            if self._poll_wait_s == 0:
                return
            self._look_now.wait(max(0.0, due - time.monotonic()))


def _no_base_path(servable: MonitoredServable, reason: str) -> StatusError:
    return StatusError(
        Code.INVALID_ARGUMENT,
        f"Could not find base path {servable.base_path} for servable {servable.name} with error {reason}",
    )
