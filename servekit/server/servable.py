"""What the server serves: names, states, and the two seams (Servable, Loader) between lifecycle and TensorFlow."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from servekit.errors import StatusError


@dataclass(frozen=True, slots=True, order=True)
class ServableId:
    """One version of one model; prints as TF Serving's log does."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


class State(enum.IntEnum):
    """The life of a version, numbered as ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class ServableState:
    """`error` is set only in END, when the version ended because it could not be loaded."""

    id: ServableId
    state: State
    error: StatusError | None = None


class Servable(Protocol):
    """A loaded version. `run` may be called from many threads at once."""

    signature_defs: Mapping[str, Any]
    """Signature name to `messages.SignatureDef`."""

    def run(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        """Tensor names (`x:0`) to arrays in, one array for each fetch out. Strings are object arrays of bytes.

        Raises StatusError with the code and text of TensorFlow's runtime.
        """

    def close(self) -> None:
        """Frees the graph and its variables; nobody runs it any more."""


class Loader(Protocol):
    def load(self, id: ServableId, path: Path) -> Servable:
        """Reads and warms up the version in `path`; returns when it can answer. Raises StatusError."""
