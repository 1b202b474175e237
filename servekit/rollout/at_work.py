"""Who brings servers up to date here: one controller at a time, and how others see that it is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from servekit.errors import ServekitError
from servekit.paths import Bundle
from servekit.rollout import history


@dataclass(frozen=True, slots=True)
class AtWork:
    """`watches`: it stays, and takes up whatever is edited. `with_server`: `up` started it, it ends with the server.
    `pid` counts in its own container, where it has one."""

    watches: bool
    pid: int
    since: str
    metrics: str = ""
    with_server: bool = False


@contextlib.contextmanager
def only_one(
    bundle: Bundle, *, watches: bool = False, metrics: str = "", with_server: bool = False, patience_s: float = 0.0
) -> Iterator[None]:
    """Raises ServekitError when another controller is at work here for longer than `patience_s`; the lock goes with its
    process, however it ends."""
    bundle.state.mkdir(parents=True, exist_ok=True)
    with _path(bundle).open("a+", encoding="utf-8") as lock:
        _take(lock, patience_s)
        with contextlib.suppress(OSError):  # a full disk: it is then one that nobody can describe
            lock.truncate(0)
            text = json.dumps(asdict(AtWork(watches, os.getpid(), history.now(), metrics, with_server))) + "\n"
            os.write(lock.fileno(), text.encode())  # nothing is left in a buffer, to fail again when it is closed
        yield


def _take(lock: IO[str], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ServekitError(
                    "another `servekit apply` is at work here", hint="servekit apply --history shows what it does"
                ) from None
            time.sleep(0.2)
        else:
            return


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
