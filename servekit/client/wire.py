"""The seam between what a client does and how a protocol says it.

A Wire turns a call into a request and knows how to read the answer; a Transport sends it. Both protocols have one Wire
and two Transports (sync, async).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from servekit.client.answers import Class, Metadata, ModelStatus, Prediction, Signature
from servekit.client.deadline import Deadline
from servekit.model_spec import ModelSpec

T = TypeVar("T")

Feature = bytes | str | int | float | Sequence[bytes] | Sequence[str] | Sequence[int] | Sequence[float]
Examples = Sequence[Mapping[str, Feature]]
"""What classify and regress take: one mapping of feature name to value(s) an example."""


class SignatureMovedError(Exception):
    """An answer does not fit the signature it was read with: the label or the newest version moved meanwhile."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`target` is `POST /v1/models/…` or `/tensorflow.serving.…/Predict`; `read` turns the answer's bytes into T.

    `read` raises ValueError for bytes that are no such answer.
    """

    target: str
    body: bytes
    read: Callable[[bytes], T]


class Wire(Protocol):
    def predict(
        self, spec: ModelSpec, inputs: Mapping[str, NDArray[Any]], output_filter: Sequence[str]
    ) -> Call[Callable[[Signature | None], Prediction]]:
        """The answer still needs the signature, because JSON has neither dtypes nor the name of a single output."""

    def classify(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[list[Class]]]:
        """One list of classes an example."""

    def regress(self, spec: ModelSpec, examples: Examples, context: Mapping[str, Feature]) -> Call[list[float]]:
        """One value an example."""

    def status(self, spec: ModelSpec) -> Call[ModelStatus]: ...

    def metadata(self, spec: ModelSpec) -> Call[Metadata]: ...

    def reload_config(self, config: Any) -> Call[None]:
        """Raises StatusError UNIMPLEMENTED where the protocol has no such call."""


class Transport(Protocol):
    wire: Wire

    def send(self, call: Call[T], deadline: Deadline) -> T:
        """Raises StatusError, Unreachable when nobody answers."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    wire: Wire

    async def send(self, call: Call[T], deadline: Deadline) -> T: ...

    async def close(self) -> None: ...
