"""What a running server makes of the step from the rendered file to the next one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format

from servekit.config.section import Finding
from servekit.config.serving import Serving
from servekit.protos import messages


def frozen_labels(rendered: str, serving: Serving) -> Iterator[Finding]:
    """Labels that move to a version added by the same edit. TF Serving moves labels first, to loaded versions only,
    and then loads versions: it refuses such a file at every poll, with all other changes in it.

    `rendered` is the text of models.config that the server has.
    """
    known = _configs(rendered)
    for name, model in serving.models.items():
        if name not in known or not known[name].model_version_policy.HasField("specific"):
            continue
        loaded, labels = known[name].model_version_policy.specific.versions, known[name].version_labels
        for label, version in model.labels.items():
            if label in labels and labels[label] != version and version not in loaded:
                yield Finding(
                    ("models", name, "labels", label),
                    f"moves from version {labels[label]} to {version} in the edit that adds version {version}: "
                    "a running server refuses the whole file",
                    "servekit apply brings it about in steps: version first, then label",
                )


def _configs(rendered: str) -> dict[str, Any]:
    try:
        config = text_format.Parse(rendered, messages.ModelServerConfig())
    except text_format.ParseError:  # somebody edited it: it is about to be replaced
        return {}
    return {entry.name: entry for entry in config.model_config_list.config}
