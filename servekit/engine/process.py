"""Starting and ending processes so that none is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from servekit.engine.state import born

_HELD = """read -r go && exec "$@" </dev/null"""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def spawn(
    command: Sequence[str],
    output: IO[Any] | int,
    *,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    when_we_die: signal.Signals | None,
    held: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts `command` in a session of its own, so that a terminal's Ctrl-C reaches only us and we end it in order.

    Linux sends it `when_we_die`, however we die; None lets it outlive us. Call it from the main thread, before other
    threads are started.

    `held`: the process is there, with its number, and becomes `command` when `let_go` is called; if we die before that,
    it ends.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _HELD, "held", *command] if held else command,
        stdin=subprocess.PIPE if held else subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,
        preexec_fn=_dies_with(os.getpid(), when_we_die) if when_we_die else None,
    )


def let_go(child: subprocess.Popen[bytes]) -> None:
    """See `spawn`. One that has ended meanwhile is left to who waits for it."""
    assert child.stdin
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(b"go\n")
        child.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _dies_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


def end(pid: int, birth: str, grace_s: float, first: signal.Signals = signal.SIGTERM) -> bool:
    """`first`, then SIGKILL to its process group after `grace_s`. Returns when it is gone; False if that took the KILL.

    `birth` (see `state.born`) keeps us from signalling a stranger with the same number.
    """
    if born(pid) != birth:
        return True
    _signal(pid, first)
    if _gone_within(pid, birth, grace_s):
        return True
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        _signal(pid, signal.SIGKILL)
    _gone_within(pid, birth, 10)
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _gone_within(pid: int, birth: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while born(pid) == birth:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
