"""Who brings servers up to date here: one controller at a time, and how others see that it is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from servekit.errors import ServekitError
from servekit.paths import Bundle
from servekit.rollout import history


@dataclass(frozen=True, slots=True)
class AtWork:
    """`watches`: it stays, and takes up whatever is edited. `pid` counts in its own container, where it has one."""

    watches: bool
    pid: int
    since: str
    metrics: str = ""


@contextlib.contextmanager
def only_one(bundle: Bundle, *, watches: bool = False, metrics: str = "") -> Iterator[None]:
    """Raises ServekitError when another controller is at work here; the lock goes with its process, however it ends."""
    bundle.state.mkdir(parents=True, exist_ok=True)
    with _path(bundle).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServekitError(
                "another `servekit apply` is at work here", hint="servekit apply --history shows what it does"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: it is then one that nobody can describe
            lock.truncate(0)
            lock.write(json.dumps(asdict(AtWork(watches, os.getpid(), history.now(), metrics))) + "\n")
            lock.flush()
        yield


def at_work(bundle: Bundle) -> AtWork | None:
    """None when nobody is."""
    try:
        with _path(bundle).open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(lock.read())
    except OSError:
        pass
    return None


def _read(text: str) -> AtWork:
    try:
        return AtWork(**json.loads(text))
    except (ValueError, TypeError):
        return AtWork(False, 0, "")


def _path(bundle: Bundle) -> Path:
    return bundle.state / "apply.lock"
