"""A Loader whose models are text files: what the lifecycle needs of a loader, without TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.errors import Code, StatusError
from servekit.server.servable import Servable, ServableId


class TextServable:
    """Answers every fetch with the text of its file."""

    signature_defs: Mapping[str, Any] = {}

    def __init__(self, text: str) -> None:
        self.text = text
        self.closed = False

    def run(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        return [np.array([self.text.encode()], dtype=object) for _ in fetches]

    def close(self) -> None:
        self.closed = True


class TextLoader:
    """Loads VERSION/model.txt. `journal` has `load m 1`, ... in order; loads wait while `gate` is closed."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self, id: ServableId, path: Path) -> Servable:
        self.journal.append(f"load {id.name} {id.version}")
        assert self.gate.wait(20)
        try:
            text = (path / "model.txt").read_text()
        except OSError:
            raise StatusError(Code.NOT_FOUND, f"no model.txt in {path}") from None
        if text == "broken":
            raise StatusError(Code.DATA_LOSS, "it is broken")
        if text == "bug":
            raise ZeroDivisionError("in the loader")
        return TextServable(text)


def write_version(base: Path, version: int | str, text: str = "fine") -> Path:
    """Publishes `base/version/model.txt` with one rename."""
    base.mkdir(parents=True, exist_ok=True)
    staging = base / f".{version}"
    staging.mkdir()
    (staging / "model.txt").write_text(text)
    return staging.rename(base / str(version))
