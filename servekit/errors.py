"""Every error that servekit raises on purpose.

    ServekitError            has a message, an optional hint (a command to run) and an exit code
    ├── ConfigError          the bundle's files are wrong; carries one Problem per mistake        exit 2
    ├── ExportError          a model could not be built, checked or published                     exit 1
    ├── EngineError          a server could not be started, found or stopped                      exit 1
    └── StatusError          an answer with a canonical status code, as TF Serving and gRPC have  exit 1
        └── Unreachable      no server answers at the address                                     exit 1

The message names the object first, then what is wrong, then what would be right. Whoever catches one at the outermost
level (`servekit.cli.main`, the server's edges) prints the message and never a traceback.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class ExitCode(enum.IntEnum):
    """What a shell sees: done, the answer is no, wrong usage or configuration, interrupted."""

    DONE = 0
    NO = 1
    USAGE = 2
    INTERRUPTED = 130


class ServekitError(Exception):
    exit_code = ExitCode.NO

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file: `serving.yaml:12: models.vit.labels.canary: points at version 3, ...`."""

    file: str
    line: int | None
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(ServekitError):
    """All problems of a file at once; `str()` has one line a problem, each followed by its hint."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines: list[str] = []
        for problem in problems:
            lines.append(str(problem))
            if problem.hint:
                lines.append(f"hint: {problem.hint}")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


class ExportError(ServekitError):
    pass


class EngineError(ServekitError):
    pass


class Code(enum.IntEnum):
    """Canonical status codes, numbered as in gRPC and absl::StatusCode."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(ServekitError):
    """An error of the server's core or of an answer; each protocol's edge turns `code` into its own status."""

    def __init__(self, code: Code, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class Unreachable(StatusError):
    """Nobody answered: connection refused, unknown host, connection lost before an answer."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(Code.UNAVAILABLE, message, hint=hint)

    def __str__(self) -> str:
        return self.message
