"""What commands call: a bundle's serving.yaml, checked against its models and its rendered files, then written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servekit.config.folders import folder_findings
from servekit.config.load import load_with_source
from servekit.config.render import render
from servekit.config.rendered_files import MODELS
from servekit.config.section import Finding
from servekit.config.serving import Serving
from servekit.config.source import Source
from servekit.config.transition import frozen_labels
from servekit.config.write import FileChange, compare, write
from servekit.errors import ConfigError, Problem
from servekit.gateway.files import rendered_routes
from servekit.paths import Bundle


@dataclass(frozen=True, slots=True)
class Rendering:
    """What rendering would do; `write(rendering.changes)` does it."""

    serving: Serving
    changes: list[FileChange]
    warnings: list[Problem]


def prepare(
    bundle: Bundle, *, config: Path | None = None, out: Path | None = None, allow_missing_models: bool = False
) -> Rendering:
    """Reads `config` (serving.yaml), renders it for the folder `out`. Raises ConfigError with every problem."""
    serving, source = load_with_source(config or bundle.serving_yaml)
    warnings = check_folders(serving, source, bundle.models, allow_missing=allow_missing_models)
    texts = rendered_routes(serving, out or bundle.rendered)
    texts |= render(serving, models=bundle.models, templates=bundle.templates)
    changes = compare(texts, out or bundle.rendered)
    for change in changes:
        if change.path == (out or bundle.rendered) / MODELS and change.before and change.status == "changed":
            warnings += [_problem(source, finding) for finding in frozen_labels(change.before, serving)]
    return Rendering(serving, changes, warnings)


def render_bundle(bundle: Bundle) -> Rendering:
    """All that `servekit render` does, for other commands."""
    rendering = prepare(bundle)
    write(rendering.changes)
    return rendering


def check_folders(serving: Serving, source: Source, models: Path, *, allow_missing: bool = False) -> list[Problem]:
    """Warnings. Raises ConfigError for what would make TF Serving hang, unless `allow_missing`."""
    found = list(folder_findings(serving, models))
    fatal = [_problem(source, item.finding) for item in found if item.fatal]
    if fatal and not allow_missing:
        raise ConfigError(fatal)
    return [_problem(source, item.finding) for item in found]


def _problem(source: Source, finding: Finding) -> Problem:
    return source.problem(finding.path, finding.message, finding.hint)
