"""What was measured so far, on disk after every step, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servekit.atomic import write_atomically

SCHEMA = 1


class Journal:
    """Answers by question. `inputs` is all that the answers depend on: with others, everything is asked anew."""

    def __init__(self, path: Path, inputs: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._path = path
        self._key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._steps: dict[str, dict[str, Any]] = {} if fresh else _read(path, self._key)
        self.known = len(self._steps)
        """Answers that an earlier run left."""

    @property
    def spent_s(self) -> float:
        """Seconds that it took to find the answers, in all runs together."""
        return sum(float(step["seconds"]) for step in self._steps.values())

    def knows(self, question: str) -> bool:
        return question in self._steps

    def ask(self, question: str, find: Callable[[], Any]) -> Any:
        """The answer (something that JSON can say), from the file or from `find`."""
        if question not in self._steps:
            began = time.monotonic()
            answer = find()
            self._steps[question] = {"seconds": round(time.monotonic() - began, 2), "answer": answer}
            self._write()
        return self._steps[question]["answer"]

    def _write(self) -> None:
        document = {"schema": SCHEMA, "key": self._key, "steps": self._steps}
        write_atomically(self._path, json.dumps(document, indent=1) + "\n")


def _read(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Nothing for a file that is not there, not ours, or about other inputs."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or document["key"] != key:
            return {}
        steps: dict[str, dict[str, Any]] = document["steps"]
        return steps if all("answer" in step and step["seconds"] >= 0 for step in steps.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
