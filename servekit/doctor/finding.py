"""What a check says: findings, each with a place and a way out, and what was looked at."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(str, enum.Enum):
    """error: it does not work, or will not; warning: it will hurt some day; note: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` never changes its meaning (`versions.no-variables`); `place` is a file, a port, a container, a version."""

    code: str
    severity: Severity
    place: str
    message: str
    remedy: str | None = None
    """A command, or the edit to make."""


def error(code: str, place: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(code, Severity.ERROR, place, message, remedy)


def warning(code: str, place: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(code, Severity.WARNING, place, message, remedy)


def note(code: str, place: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(code, Severity.NOTE, place, message, remedy)


@dataclass(frozen=True, slots=True)
class Examined:
    """`looked_at`: short phrases for the line that says what was checked when nothing is wrong."""

    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]


def examined(findings: Iterable[Finding], *looked_at: str) -> Examined:
    return Examined(tuple(text for text in looked_at if text), tuple(findings))


def listed(names: Iterable[str], limit: int = 3) -> str:
    """`a, b, c and 4 more`."""
    known = list(names)
    rest = len(known) - limit
    return ", ".join(known[:limit]) + (f" and {rest} more" if rest > 0 else "")


def megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.0f} MB"
