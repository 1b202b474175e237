"""The server's log file: a fresh one each start, its last lines, and following it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

from servekit.paths import Bundle

# TF Serving's last words, and absl's lines of level E and F.
_FAILURE = re.compile(r"Failed to start server\. Error: (.*)|^\S+ \S+ [EF] [^\]]*\] (.*)|^[EF]\d{4} [^\]]*\] (.*)")

_POLL_BEGINS = "Adding/updating models."
_POLL_MODEL = "(Re-)adding model: "
_POLL_ENDS = "Finished adding/updating models"


def path(bundle: Bundle) -> Path:
    return bundle.state / "logs" / "server.log"


def start_new(log: Path) -> IO[bytes]:
    """Keeps the log of the start before as server.log.1. Unbuffered, for the server to write into."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    return log.open("ab", buffering=0)


def last_lines(log: Path, count: int) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def reason(log: Path) -> str | None:
    """What the server said about its end; None if nothing there reads like a failure."""
    for line in reversed(last_lines(log, 200)):
        if found := _FAILURE.search(line):
            return next(text for text in found.groups() if text is not None)
    return None


class Follower:
    """Passes on the lines that are added to a log after this moment, without those of polls that change nothing."""

    def __init__(self, log: Path, write: Callable[[str], object]) -> None:
        self._file = log.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._write = write
        self._unfinished = b""
        self._poll: list[str] = []

    def pass_on(self) -> None:
        *lines, self._unfinished = (self._unfinished + self._file.read()).split(b"\n")
        for line in lines:
            self._pass_on(line.decode(errors="replace") + "\n")

    def _pass_on(self, line: str) -> None:
        # TF Serving reads models.config again every poll_seconds and says so in three lines and more.
        if _POLL_BEGINS in line or (self._poll and _POLL_MODEL in line):
            self._poll.append(line)
        elif self._poll and _POLL_ENDS in line:
            self._poll.clear()
        else:
            self._write("".join([*self._poll, line]))
            self._poll.clear()

    def close(self) -> None:
        self._file.close()
