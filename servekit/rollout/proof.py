"""What a server shows of a model, and what has to be seen before the next step is safe. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servekit.gateway.splits import Split

AT_REST = frozenset({"AVAILABLE", "END"})


@dataclass(frozen=True, slots=True)
class Seen:
    """One model, as server and disk show it.

    `published`: version folders with a SavedModel; `states`: START, LOADING, AVAILABLE, UNLOADING or END by version;
    `failed`: the error of versions that ended with one; `labels`: the version that each label means now, for the
    labels that were asked for and resolve. `split`: what the gateway was told last to do with unlabelled requests of
    the model (None: pass them on untouched, also without a gateway); `behind`: it answers, with other routes; `silent`:
    it does not answer.
    """

    published: frozenset[int] = frozenset()
    states: Mapping[int, str] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    split: Split | None = None
    behind: bool = False
    silent: bool = False

    @property
    def available(self) -> frozenset[int]:
        return frozenset(version for version, state in self.states.items() if state == "AVAILABLE")

    @property
    def moving(self) -> frozenset[int]:
        """Versions on their way up or down: a plan made now would be made on sand."""
        return frozenset(version for version, state in self.states.items() if state not in AT_REST)


@dataclass(frozen=True, slots=True)
class Available:
    """The version answers requests."""

    version: int

    def holds(self, seen: Seen) -> bool:
        return self.version in seen.available

    def failed(self, seen: Seen) -> str | None:
        """The server's error when it gave up loading."""
        return seen.failed.get(self.version)

    def __str__(self) -> str:
        return f"version {self.version} is AVAILABLE"


@dataclass(frozen=True, slots=True)
class Ended:
    """The version is unloaded: its last request is answered, its memory free."""

    version: int

    def holds(self, seen: Seen) -> bool:
        return seen.states.get(self.version, "END") == "END"

    def failed(self, seen: Seen) -> str | None:  # noqa: ARG002
        return None

    def __str__(self) -> str:
        return f"version {self.version} is unloaded"


@dataclass(frozen=True, slots=True)
class Means:
    """`/labels/LABEL/metadata` names the version: the server took the file."""

    label: str
    version: int

    def holds(self, seen: Seen) -> bool:
        return seen.labels.get(self.label) == self.version

    def failed(self, seen: Seen) -> str | None:  # noqa: ARG002
        return None

    def __str__(self) -> str:
        return f"label {self.label} means version {self.version}"


@dataclass(frozen=True, slots=True)
class Unassigned:
    """The label is no more."""

    label: str

    def holds(self, seen: Seen) -> bool:
        return self.label not in seen.labels

    def failed(self, seen: Seen) -> str | None:  # noqa: ARG002
        return None

    def __str__(self) -> str:
        return f"label {self.label} is gone"


@dataclass(frozen=True, slots=True)
class Routed:
    """The gateway answers with the routes that give the model this split: its workers took the file."""

    split: Split | None

    def holds(self, seen: Seen) -> bool:
        return not seen.behind and not seen.silent and seen.split == self.split

    def failed(self, seen: Seen) -> str | None:  # noqa: ARG002
        return None

    def __str__(self) -> str:
        return f"the gateway gives {described(self.split)}"


def described(split: Split | None) -> str:
    """What becomes of unlabelled requests, for people."""
    if split is None:
        return "unlabelled requests no label"
    mirrored = f" and {split.mirror} % of the others as copies" if split.mirror else ""
    return f"{split.weight} % of unlabelled requests{mirrored} to canary"


Proof = Available | Ended | Means | Unassigned | Routed
