"""How the unlabelled requests of each model are divided between its labels `stable` and `canary`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from servekit.config.serving import Serving

STABLE, CANARY = "stable", "canary"


@dataclass(frozen=True, slots=True)
class Split:
    """Of one model with a label `stable`: percent to `canary`, the header that keeps a user on one label, percent of
    what `stable` answers that `canary` gets a copy of."""

    weight: int = 0
    sticky: str | None = None
    mirror: int = 0


def desired_splits(serving: Serving) -> dict[str, Split]:
    """What serving.yaml asks for, by model. Models without a label `stable` are not in it: nothing is labelled there.

    Empty without the gateway.
    """
    if not serving.gateway.enabled:
        return {}
    return {name: _split(serving, name) for name, model in serving.models.items() if STABLE in model.labels}


def not_raised(desired: Mapping[str, Split], written: Mapping[str, Split]) -> dict[str, Split]:
    """`desired` as far as it needs no proof of the model server: what was `written` before may shrink or go.

    More for a canary, and models that were not split before, wait for the controller: their labels may not answer yet.
    """
    return {
        name: Split(min(split.weight, before.weight), split.sticky, min(split.mirror, before.mirror))
        for name, split in desired.items()
        if (before := written.get(name)) is not None
    }


def meaning(splits: Mapping[str, Split], serving: Serving) -> dict[str, Any]:
    """All that a route file says, as plain values; two files that mean the same have the same."""
    gateway = serving.gateway
    return {
        "models": {name: asdict(split) for name, split in sorted(splits.items())},
        "others": sorted(name for name in serving.models if name not in splits),
        "batching": serving.batching.enabled,
        "max_request_mib": gateway.max_request_mib,
        "retries": gateway.retries,
        "deadline_ms": gateway.deadline_ms,
    }


def generation(splits: Mapping[str, Split], serving: Serving) -> str:
    """A short name for what a route file means; `answers.served_generation` tells which one Envoy serves."""
    text = json.dumps(meaning(splits, serving), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _split(serving: Serving, name: str) -> Split:
    canary = serving.models[name].canary
    if canary is None or CANARY not in serving.models[name].labels:
        return Split(sticky=canary.sticky if canary else None)
    return Split(canary.weight, canary.sticky, canary.mirror)
