"""TF Serving's rules for reloads, labels and version transitions, as measured on 2.19.1, without a server.

Reload: labels are resolved first (a label may be new, stay, or move to an AVAILABLE version; one bad label refuses the
whole file), then every model's aspired versions are set, then it waits for new models. Versions: the availability
preserving policy, one action a tick; an aspired set with versions that are on their way out waits until they are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servekit.config.folders import served_versions
from servekit.config.models import Model
from servekit.gateway.splits import Split
from servekit.rollout.proof import Seen


@dataclass
class Harness:
    state: str
    aspired: bool = True
    error: str = ""
    ticks: int = 0


@dataclass
class Servable:
    published: frozenset[int]
    loadable: frozenset[int]
    load_ticks: int = 1
    harnesses: dict[int, Harness] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    pending: frozenset[int] | None = None

    def ready(self, *, aspired: bool) -> list[int]:
        return sorted(v for v, h in self.harnesses.items() if h.state == "AVAILABLE" and h.aspired is aspired)

    def aspire(self, versions: frozenset[int]) -> None:
        self.pending = versions

    def tick(self) -> None:
        for version in [v for v, h in self.harnesses.items() if h.state == "END" and not h.aspired]:
            self.ended[version] = self.harnesses.pop(version).error
        self._take_aspired()
        for version, harness in list(self.harnesses.items()):
            if harness.state == "LOADING":
                harness.ticks += 1
                if harness.ticks >= self.load_ticks:
                    good = version in self.loadable
                    harness.state, harness.error = ("AVAILABLE", "") if good else ("END", "cannot be loaded")
        self._act()

    def _take_aspired(self) -> None:
        if self.pending is None:
            return
        leaving = {v for v, h in self.harnesses.items() if not h.aspired}
        if self.pending & leaving:
            return  # ContainsAnyReaspiredVersions: postponed
        for version, harness in self.harnesses.items():
            harness.aspired = version in self.pending
        for version in self.pending - self.harnesses.keys():
            self.harnesses[version] = Harness("START")
            self.ended.pop(version, None)
        self.pending = None

    def _act(self) -> None:
        leaving = self.ready(aspired=False)
        if leaving and (self.ready(aspired=True) or len(leaving) > 1):
            version = leaving[0]
            del self.harnesses[version]
            self.ended[version] = ""
            return
        # The last one goes when nothing is aspired any more, or nothing that is aspired is left to wait for.
        if leaving and not any(h.aspired for h in self.harnesses.values()):
            del self.harnesses[leaving[0]]
            self.ended[leaving[0]] = ""
            return
        new = sorted((v for v, h in self.harnesses.items() if h.state == "START" and h.aspired), reverse=True)
        if new:
            self.harnesses[new[0]].state = "LOADING"


@dataclass
class GatewayModel:
    """Gives out labels by weight as its route file says, which it takes up `lag` ticks after it was written."""

    lag: int = 0
    written: Split | None = None
    serves: Split | None = None
    age: int = 0

    def write(self, split: Split | None) -> None:
        self.written, self.age = split, 0

    def tick(self) -> None:
        self.age += 1
        if self.age > self.lag:
            self.serves = self.written

    def gives_out(self) -> set[str]:
        if self.serves is None:
            return set()
        return {"stable", "canary"} if self.serves.weight or self.serves.mirror else {"stable"}


class ModelServer:
    """`reload` is one poll of models.config; `tick` is time going by."""

    def __init__(self, servables: Mapping[str, Servable]) -> None:
        self.servables = dict(servables)
        self.labels: dict[str, dict[str, int]] = {}
        self.known: set[str] = set()
        self.waiting_for: set[str] = set()
        self.refusals: list[str] = []

    def reload(self, config: Mapping[str, Model]) -> None:
        if self.waiting_for:
            return
        for name, entry in config.items():
            for label, version in entry.labels.items():
                has = self.labels.get(name, {})
                if label in has and has[label] != version and not self.is_available(name, version):
                    self.refusals.append(f"{name}: {label} to {version}")
                    return
        self.labels = {name: dict(entry.labels) for name, entry in config.items()}
        self.waiting_for = set(config) - self.known
        for name in self.known | set(config):
            servable = self.servables[name]
            wanted = config.get(name)
            servable.aspire(frozenset(served_versions(wanted, set(servable.published))) if wanted else frozenset())
        self.known = set(config)

    def tick(self) -> None:
        for servable in self.servables.values():
            servable.tick()
        self.waiting_for = {name for name in self.waiting_for if not self._has_arrived(name)}

    def rest(self, ticks: int = 60) -> None:
        for _ in range(ticks):
            self.tick()

    def is_available(self, name: str, version: int) -> bool:
        harness = self.servables[name].harnesses.get(version)
        return harness is not None and harness.state == "AVAILABLE"

    def answers(self, name: str, label: str) -> bool:
        version = self.labels.get(name, {}).get(label)
        return version is not None and self.is_available(name, version)

    def seen(self, name: str) -> Seen:
        servable = self.servables[name]
        states = dict.fromkeys(servable.ended, "END")
        states |= {version: harness.state for version, harness in servable.harnesses.items()}
        failed = {v: error for v, error in servable.ended.items() if error}
        failed |= {v: h.error for v, h in servable.harnesses.items() if h.error}
        # /labels/L/metadata answers only when the version is there.
        labels = {
            label: version for label, version in self.labels.get(name, {}).items() if self.is_available(name, version)
        }
        return Seen(servable.published, states, failed, labels)

    def _has_arrived(self, name: str) -> bool:
        servable = self.servables[name]
        aspired = {v: h for v, h in servable.harnesses.items() if h.aspired}
        return (
            servable.pending is None
            and bool(aspired)
            and all(h.state in ("AVAILABLE", "END") for h in aspired.values())
        )
