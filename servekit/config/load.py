"""serving.yaml to a `Serving`, or to all of its problems at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from servekit.config import problems
from servekit.config.section import Finding
from servekit.config.serving import Serving
from servekit.config.source import Source, parse
from servekit.errors import ConfigError, Problem


def load(path: Path) -> Serving:
    """Typed, frozen, and checked as far as that needs no model folders. Raises ConfigError with every problem."""
    return load_with_source(path)[0]


def load_with_source(path: Path) -> tuple[Serving, Source]:
    """The same, with the places where things were written, for whoever finds more problems later."""
    source = parse(read_text(path), shown_path(path))
    return typed(source), source


def typed(source: Source, forgiven: Callable[[Finding], bool] = lambda _: False) -> Serving:
    """Raises ConfigError: wrong types, and broken rules of every model and section whose types are right, but for
    findings that are `forgiven`, since an edit is about to mend them."""
    found = list(source.problems)
    value: Any = source.value
    try:
        serving = Serving.model_validate(value)
    except ValidationError as error:
        found += problems.from_pydantic(error, source)
        remaining = problems.without_broken_parts(value, error)
        try:
            serving = Serving.model_validate(remaining)  # what is left may have mistakes of the other kind
        except ValidationError:
            raise ConfigError(found) from None
    found += [source.problem(*_parts(finding)) for finding in serving.findings() if not forgiven(finding)]
    if found:
        raise ConfigError(in_order(found))
    return serving


def _parts(finding: Finding) -> tuple[tuple[str | int, ...], str, str | None]:
    return finding.path, finding.message, finding.hint


def in_order(found: Sequence[Problem]) -> list[Problem]:
    return sorted(found, key=lambda problem: problem.line or 0)


def read_text(path: Path) -> str:
    file = shown_path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        hint = (
            "SERVEKIT_HOME=FOLDER names another folder that has config/serving.yaml; git checkout brings this one back"
        )
        raise ConfigError([Problem(file, None, "", "does not exist", hint)]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, line, "", "is not UTF-8", "save it as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(file, None, "", f"cannot be read: {error.strerror}")]) from None


def shown_path(path: Path) -> str:
    """Relative to the current folder where that is shorter to read: editors and terminals make it a link."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
