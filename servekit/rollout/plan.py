"""The order in which TF Serving takes a change: which writes of models.config lead from what is to what is meant.

TF Serving resolves labels first, to versions that are AVAILABLE, and one refused label freezes every model of the
file; it may unload a version before its successor is loaded; it waits without end for a new model that has no version
(`ReloadConfig` in its server_core.cc, `AvailabilityPreservingPolicy`). Hence, model by model: add versions, then move
labels, then retire versions, each in a write of its own with a proof that the server took it; new models come last.

In front of it the gateway labels requests that name no version: stable, or canary by weight. It may only give out
labels that answer. Hence: a weight is lowered before anything else and raised after everything but retiring; a label
goes after the gateway has stopped giving it out and what it gave has arrived. A promotion first moves stable to the
canary's version, so that no request goes back to the old one.

Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from servekit.config.folders import served_versions
from servekit.config.models import Model, Specific
from servekit.errors import ServekitError
from servekit.gateway.splits import Split
from servekit.rollout.proof import Available, Ended, Means, Proof, Routed, Seen, Unassigned, described

STABLE, CANARY = "stable", "canary"


class Refused(ServekitError):
    """A change that TF Serving would not survive, or never finish; nothing was written."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write of models.config: `entry` replaces the model's entry (None removes it), the others stay.

    The next step may follow when every proof holds. `why` is for people.
    """

    model: str
    entry: Model | None
    proofs: tuple[Proof, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Reroute:
    """One write of the gateway's routes: `split` for the model's unlabelled requests, the other models stay."""

    model: str
    split: Split | None
    proofs: tuple[Proof, ...]
    why: str
    drain: bool = False
    """A label goes next: requests that the gateway has given it have to arrive first."""


Steps = tuple[Step | Reroute, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One model: as serving.yaml wants it, as models.config has it, as server and disk show it at rest."""

    name: str
    desired: Model | None
    current: Model | None
    seen: Seen
    moved: bool = False
    """The base path differs between `desired` and `current`."""
    split: Split | None = None
    """What the gateway is to do with unlabelled requests; None: nothing, also where there is no gateway."""

    _served: frozenset[int] = field(init=False)
    _aspired: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_served", _served(self.desired, self.seen))
        object.__setattr__(self, "_aspired", _served(self.current, self.seen))

    @property
    def served(self) -> frozenset[int]:
        """Versions that the desired policy picks among those on disk."""
        return self._served

    @property
    def aspired(self) -> frozenset[int]:
        """Versions that the policy of models.config picks among those on disk."""
        return self._aspired

    @property
    def lingering(self) -> frozenset[int]:
        """AVAILABLE and not aspired: the server has not taken the file, or keeps them as nothing else is ready."""
        return self.seen.available - self._aspired

    @property
    def is_stuck(self) -> bool:
        """The server keeps un-aspired versions because no aspired one became ready.

        It then postpones every configuration that aspires to one of them again until they are unloaded: for ever
        (`ContainsAnyReaspiredVersions` in aspired_versions_manager.cc).
        """
        ready = self.seen.available & self._aspired
        return bool(self.lingering and self._aspired & frozenset(self.seen.failed)) and not ready


def plan(change: Change) -> Steps:
    """The steps for one model, none when all is as it should be. Raises Refused."""
    _refuse(change)
    if change.desired is None:
        steps = _removed(change)
    elif change.current is None:
        steps = _added(change, bare(change.desired))
    else:
        steps = _changed(change, bare(change.desired), change.current)
    return tuple(_needed(steps, change))


def bare(model: Model) -> Model:
    """As models.config can say it: the roll-out's settings are the gateway's and the controller's."""
    return model.model_copy(update={"canary": None})


def order(changes: Sequence[Change]) -> list[Change]:
    """Changed models first, then removed ones, then new ones: a new model's load blocks every other edit."""
    return sorted(changes, key=lambda change: (change.current is None, change.desired is None))


def after(change: Change, step: Step | Reroute) -> Change:
    """The change once `step` is proven, for the way back: labels that moved by then may be given out by the gateway."""
    if not isinstance(step, Step) or step.entry is None or not any(isinstance(proof, Means) for proof in step.proofs):
        return change
    seen = replace(change.seen, labels={**change.seen.labels, **step.entry.labels})
    return replace(change, current=step.entry, seen=seen)


def fallback(change: Change) -> Model | None:
    """The entry to go back to when a version did not load: what serves now, without the versions that failed.

    A file that names a version which does not load would keep the server from starting again.
    """
    current, live = change.current, _live(change.seen)
    if current is None:
        return None
    if current.labels == live and not change.aspired & frozenset(change.seen.failed):
        return current
    if change.is_stuck or not change.seen.available:
        # Its versions may be all there is; its labels may be what the server refuses.
        return current.model_copy(update={"labels": live})
    return _entry(current, change.seen.available, live)


def _refuse(change: Change) -> None:
    name, desired = change.name, change.desired
    if desired is None:
        return
    if change.current is not None and change.moved:
        raise Refused(
            f"{name}: base_path changes while the model is served: TF Serving keeps the old files of a version number "
            "that it has loaded",
            hint="give the model in the new folder another name, or take it out of serving.yaml, servekit apply, and "
            "put it back",
        )
    if not change.served:
        raise Refused(
            f"{name}: none of its versions is on disk: TF Serving would wait for one for ever",
            hint=f"servekit export {name} --version 1",
        )
    for label, version in desired.labels.items():
        if version not in change.served:
            raise Refused(
                f"{name}: label {label} points at version {version}, which is not served",
                hint="servekit render says where and what to do",
            )
    if change.is_stuck and (kept := change.lingering & (change.served | set(change.seen.labels.values()))):
        broken = ", ".join(map(str, sorted(change.aspired))) or "none"
        raise Refused(
            f"{name}: version {_listed(kept)} is only kept until another one is ready (models.config has {broken}); "
            "TF Serving takes it back never, and would drop it with the next version that loads",
            hint="start the server anew: servekit down, then servekit up",
        )
    if change.served & change.aspired & set(change.seen.failed) and not change.seen.available & change.aspired:
        raise Refused(
            f"{name}: version {_listed(change.served & set(change.seen.failed))} did not load, and no other version "
            "is there to serve while it is tried again",
            hint=f"publish it under a higher number: servekit export {name} --version "
            f"{max(change.seen.published, default=0) + 1}",
        )


def _changed(change: Change, desired: Model, current: Model) -> Iterator[Step | Reroute]:
    name, seen, served = change.name, change.seen, change.served
    live = _live(seen)
    yield from _labelled_early(change, desired, current, live)
    routed = _fit(seen.split, live)
    if seen.split is None and change.split is not None and STABLE in live:
        routed = Split(sticky=change.split.sticky)
    promotes = _promotes(routed, desired, live)
    if not promotes:
        routed = _lowered(routed, change.split)
    yield _reroute(change, routed, drain=change.split is None or CANARY not in desired.labels)
    kept = frozenset[int]() if change.is_stuck else seen.available
    # Also one that the file does not name: a server that refused the file may still hold it.
    retry = served & frozenset(seen.failed)
    if retry and kept:
        entry = _entry(desired, kept, live)
        yield Step(name, entry, (), f"take version {_listed(retry)} out, which did not load: only then is it retried")
    union = kept | served
    added = _entry(desired, union, live) if union != served else desired.model_copy(update={"labels": live})
    if isinstance(current.versions, Specific) and set(current.versions.specific) == union:
        added = added.model_copy(update={"versions": current.versions})  # the same in another order is no step
    wanted = tuple(Available(version) for version in sorted(served))
    yield Step(name, added, wanted, f"load version {_listed(served - seen.available)}")
    if promotes:
        halfway = {**desired.labels, CANARY: live[CANARY]}
        entry = added.model_copy(update={"labels": halfway})
        yield Step(name, entry, tuple(_label_proofs(halfway, live)), _moves(halfway, live))
        live = halfway
        routed = _lowered(routed, change.split)
    if routed is not None and live.get(CANARY) != desired.labels.get(CANARY):
        routed = Split(sticky=routed.sticky)
    yield _reroute(change, routed, drain=CANARY not in desired.labels)
    moved = added.model_copy(update={"labels": desired.labels})
    yield Step(name, moved, tuple(_label_proofs(desired.labels, live)), _moves(desired.labels, live))
    yield _reroute(change, change.split)
    retired = seen.available - served
    ended = tuple(Ended(version) for version in sorted(retired))
    why = f"retire version {_listed(retired)}" if retired else f"set the version policy to {desired.versions}"
    yield Step(name, desired, ended, why)


def _labelled_early(change: Change, desired: Model, current: Model, live: dict[str, int]) -> Iterator[Step]:
    """Where unlabelled requests are to be labelled from now on, they are so before another version loads: the server
    gives them to the highest one. Adds the label to `live`."""
    version = desired.labels.get(STABLE)
    clean = change.aspired == change.seen.available and not change.seen.failed
    if change.split is None or version is None or STABLE in live or not clean or version not in change.aspired:
        return
    live[STABLE] = version
    entry = current.model_copy(update={"labels": dict(live)})
    yield Step(change.name, entry, (Means(STABLE, version),), f"move label {STABLE} to {version}")


def _added(change: Change, desired: Model) -> Iterator[Step | Reroute]:
    # Labels come after the versions: until then they would answer NOT_FOUND.
    wanted = tuple(Available(version) for version in sorted(change.served))
    unlabelled = desired.model_copy(update={"labels": {}})
    if change.seen.split is not None:
        yield _reroute(change, None, drain=True)
    yield Step(change.name, unlabelled, wanted, f"add the model with version {_listed(change.served)}")
    yield Step(change.name, desired, tuple(_label_proofs(desired.labels, {})), _moves(desired.labels, {}))
    yield _reroute(change, change.split)


def _removed(change: Change) -> Iterator[Step | Reroute]:
    yield _reroute(change, None, drain=True)
    if change.current is not None:
        ended = tuple(Ended(version) for version in sorted(change.seen.available))
        yield Step(change.name, None, ended, "remove the model")


def _needed(steps: Iterator[Step | Reroute], change: Change) -> Iterator[Step | Reroute]:
    """Without those that change nothing and have nothing to wait for."""
    entry, split = change.current, change.seen.split
    concerned = split is not None or change.split is not None or STABLE in change.seen.labels
    shown = not (change.seen.behind and concerned)
    for step in steps:
        if isinstance(step, Reroute):
            if step.split != split or not shown:
                yield step
                shown = True
            split = step.split
        else:
            if step.entry != entry or not all(proof.holds(change.seen) for proof in step.proofs):
                yield step
            entry = step.entry


def _promotes(routed: Split | None, desired: Model, live: Mapping[str, int]) -> bool:
    """stable becomes what canary is, whose share of the requests then stays with that version."""
    return (
        routed is not None and routed.weight > 0 and desired.labels.get(STABLE) == live.get(CANARY) != live.get(STABLE)
    )


def _fit(split: Split | None, labels: Mapping[str, int]) -> Split | None:
    """`split`, but nothing for a canary that does not answer."""
    return split if split is None or CANARY in labels else Split(sticky=split.sticky)


def _lowered(split: Split | None, limit: Split | None) -> Split | None:
    """No more for the canary than `limit` gives it; raising comes last."""
    if split is None or limit is None:
        return None
    if split.weight <= limit.weight and split.mirror <= limit.mirror:
        return split
    return Split(min(split.weight, limit.weight), limit.sticky, min(split.mirror, limit.mirror))


def _reroute(change: Change, split: Split | None, *, drain: bool = False) -> Reroute:
    return Reroute(change.name, split, (Routed(split),), f"give {described(split)}", drain)


def _label_proofs(desired: Mapping[str, int], live: Mapping[str, int]) -> Iterator[Proof]:
    for label, version in desired.items():
        yield Means(label, version)
    for label in live:
        if label not in desired:
            yield Unassigned(label)


def _moves(desired: Mapping[str, int], live: Mapping[str, int]) -> str:
    parts = [
        f"{label} from {live[label]} to {version}" if label in live else f"{label} to {version}"
        for label, version in desired.items()
        if live.get(label) != version
    ]
    parts += [f"{label} away" for label in live if label not in desired]
    return f"move label {', '.join(parts)}"


def _entry(like: Model, versions: frozenset[int], labels: Mapping[str, int]) -> Model:
    policy = Specific(specific=tuple(sorted(versions)))
    return like.model_copy(update={"versions": policy, "labels": dict(labels)})


def _live(seen: Seen) -> dict[str, int]:
    """Labels that are answered now."""
    return {label: version for label, version in seen.labels.items() if version in seen.available}


def _served(model: Model | None, seen: Seen) -> frozenset[int]:
    return frozenset(served_versions(model, set(seen.published))) if model else frozenset()


def _listed(versions: frozenset[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
