"""Running other programs for their answer: never longer than a few seconds, never an exception."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is None when the program did not answer in time, 127 when there is none."""

    status: int | None
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    def document(self) -> Any:
        """The JSON on stdout; None where that is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            return None

    def documents(self) -> list[Any]:
        """Of programs that print a list, or one document a line (`docker compose ps` did both)."""
        whole = self.document()
        if whole is not None:
            return whole if isinstance(whole, list) else [whole]
        found = []
        for line in self.out.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def complaint(self) -> str:
        """The last thing it said on stderr, without what it says of itself."""
        if self.status is None:
            return f"no answer within {PATIENCE_S:.0f} s"
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.status}"


def ask(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
) -> Answer:
    """`environment` is added to ours."""
    program = shutil.which(argv[0])
    if program is None:
        return Answer(127, "", f"no {argv[0]} on PATH")
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C", "NO_COLOR": "1", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", "")
    except OSError as error:
        return Answer(126, "", error.strerror or str(error))
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
