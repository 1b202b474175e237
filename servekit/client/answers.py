"""What both protocols' answers are turned into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from servekit.errors import Code
from servekit.model_spec import DEFAULT_SIGNATURE
from servekit.tensors import DATA_TYPES, DataType


@dataclass(frozen=True, slots=True)
class Prediction:
    """`outputs` by name, in the signature's dtypes (strings: object arrays of bytes).

    `version` is the version that answered; None over REST, whose answers do not say it.
    """

    outputs: dict[str, NDArray[Any]]
    version: int | None


@dataclass(frozen=True, slots=True)
class Class:
    """One entry of a classification; `label` is empty where the signature has no classes output."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`state` is START, LOADING, AVAILABLE, UNLOADING or END; `code` is not OK when the version failed to load."""

    version: int
    state: str
    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Highest version first, as the server lists them."""

    versions: tuple[VersionStatus, ...]

    def available(self) -> tuple[int, ...]:
        return tuple(status.version for status in self.versions if status.state == "AVAILABLE")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a signature: `dtype` as in `DT_FLOAT`; -1 for a free dimension, None for a free rank."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    @property
    def data_type(self) -> DataType | None:
        """None for types that no request can carry (resources, variants)."""
        return _BY_NAME.get(self.dtype)


_BY_NAME = {f"DT_{type.name}": type for type in DATA_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Signature:
    """`method_name` says which calls it answers, such as tensorflow/serving/predict; inputs and outputs by alias."""

    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class Metadata:
    """`version` is the one that a label, or no version at all, stands for at this moment."""

    name: str
    version: int
    signatures: Mapping[str, Signature]

    def signature(self, name: str) -> Signature | None:
        return self.signatures.get(name or DEFAULT_SIGNATURE)
