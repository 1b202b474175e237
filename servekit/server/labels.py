"""Version labels: when may a label point to a version? Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servekit.errors import Code, StatusError

LabelMap = Mapping[str, Mapping[str, int]]
"""Model to label to version."""


def next_label_map(
    models: Any, current: LabelMap, is_available: Callable[[str, int], bool], *, allow_unavailable: bool
) -> LabelMap:
    """The label map of a new configuration (`models`: its ModelConfig messages), to be swapped in as a whole.

    A label must point to a version that is AVAILABLE now. With `allow_unavailable`
    (--allow_version_labels_for_unavailable_models) a label that is new for its model, or stays where it is, may point
    anywhere; only a label that moves needs an AVAILABLE version.

    Raises StatusError FAILED_PRECONDITION at the first label that may not move; then nothing changes.
    """
    labels: dict[str, dict[str, int]] = {}
    for model in models:
        for label, version in sorted(model.version_labels.items()):
            moves = current.get(model.name, {}).get(label, version) != version
            if (moves or not allow_unavailable) and not is_available(model.name, version):
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name}, "
                    "which is not currently available for inference",
                )
            labels.setdefault(model.name, {})[label] = version
    return labels
