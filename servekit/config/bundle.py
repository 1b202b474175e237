"""What commands call: the bundle's serving.yaml, checked against its models, rendered and written."""

from __future__ import annotations

from pathlib import Path

from servekit.config.folders import folder_findings
from servekit.config.load import load_with_source
from servekit.config.render import render
from servekit.config.section import Finding
from servekit.config.serving import Serving
from servekit.config.source import Source
from servekit.config.write import FileChange, compare, write
from servekit.errors import ConfigError, Problem
from servekit.paths import Bundle


def render_bundle(bundle: Bundle) -> tuple[Serving, list[FileChange]]:
    """Everything `servekit render` does, for other commands. Raises ConfigError before anything is written."""
    serving, source = load_with_source(bundle.serving_yaml)
    check_folders(serving, source, bundle.models)
    changes = compare(render(serving, models=bundle.models, templates=bundle.templates), bundle.rendered)
    write(changes)
    return serving, changes


def check_folders(serving: Serving, source: Source, models: Path, *, allow_missing: bool = False) -> list[Problem]:
    """Warnings. Raises ConfigError for what would make TF Serving hang, unless `allow_missing`."""
    found = list(folder_findings(serving, models))
    fatal = [_problem(source, item.finding) for item in found if item.fatal]
    if fatal and not allow_missing:
        raise ConfigError(fatal)
    return [_problem(source, item.finding) for item in found]


def _problem(source: Source, finding: Finding) -> Problem:
    return source.problem(finding.path, finding.message, finding.hint)
