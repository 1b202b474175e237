"""Check `config`: serving.yaml, by itself and against the model folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from servekit.config.bundle import check_folders
from servekit.config.load import load_with_source
from servekit.config.serving import Serving
from servekit.config.source import Source
from servekit.doctor.finding import Finding, error, warning
from servekit.errors import ConfigError, Problem
from servekit.paths import Bundle


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """`serving` and `source` are None when the file cannot be read as meant."""

    serving: Serving | None
    source: Source | None
    problems: tuple[Problem, ...] = ()
    """What stops a render."""
    warnings: tuple[Problem, ...] = ()


def gather(bundle: Bundle) -> ConfigFacts:
    try:
        serving, source = load_with_source(bundle.serving_yaml)
    except ConfigError as error:
        return ConfigFacts(None, None, error.problems)
    try:
        return ConfigFacts(serving, source, (), tuple(check_folders(serving, source, bundle.models)))
    except ConfigError as error:
        return ConfigFacts(serving, source, error.problems)


def judge(facts: ConfigFacts) -> Iterator[Finding]:
    for problem in facts.problems:
        yield error("config.mistake", _place(problem), problem.message, problem.hint)
    for problem in facts.warnings:
        yield warning("config.warning", _place(problem), problem.message, problem.hint)


def as_warnings(problems: Iterable[Problem], code: str) -> Iterator[Finding]:
    for problem in problems:
        yield warning(code, _place(problem), problem.message, problem.hint)


def _place(problem: Problem) -> str:
    file = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return f"{file}: {problem.path}" if problem.path else file


def looked_at(facts: ConfigFacts) -> str:
    return f"serving.yaml with {len(facts.serving.models)} model(s)" if facts.serving else ""
