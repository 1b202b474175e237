"""Check `log`: known lines of TF Serving's log with their causes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from servekit.doctor.finding import Finding, Severity, error
from servekit.doctor.known_lines import KNOWN_LINES, KnownLine
from servekit.doctor.programs import ask

LAST_BYTES = 8 * 2**20
"""Of a log that somebody asks about; of a running server's, a quarter of it."""
STUCK_S = 10.0
"""A reload takes milliseconds; one that waits for a folder never ends."""

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,\d]*Z?:? *")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)")
_BEGUN, _DONE = "Adding/updating models", "Finished adding/updating models"


@dataclass(frozen=True, slots=True)
class LogFacts:
    """`live`: the log of a server that runs, so that what it said last is true now."""

    place: str
    lines: tuple[str, ...]
    live: bool = False
    now: datetime | None = None
    problem: str | None = None


def read_file(path: Path, *, live: bool = False) -> LogFacts:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (LAST_BYTES // 4 if live else LAST_BYTES)))
            text = file.read()
            modified = path.stat().st_mtime
    except OSError as mistake:
        return LogFacts(str(path), (), problem=mistake.strerror or str(mistake))
    now = datetime.now() if live else datetime.fromtimestamp(modified)  # the log's times are local
    return LogFacts(str(path), _split(text), live, now)


def read_text(place: str, data: bytes) -> LogFacts:
    return LogFacts(place, _split(data[-LAST_BYTES:]))


def read_container(container_id: str, name: str) -> LogFacts:
    """Since its last start."""
    started = ask(["docker", "inspect", "--format", "{{.State.StartedAt}}", container_id]).out.strip()
    answer = ask(["docker", "logs", "--since", started or "24h", "--tail", "20000", container_id])
    place = f"docker logs {name}"
    if answer.status != 0:
        return LogFacts(place, (), problem=answer.complaint())
    return LogFacts(place, (*answer.out.splitlines(), *answer.err.splitlines()), live=True)


def _split(data: bytes) -> tuple[str, ...]:
    return tuple(data.decode(errors="replace").splitlines())


@dataclass(slots=True)
class _Seen:
    known: KnownLine
    match: re.Match[str]
    count: int
    first: int
    last: int
    text: str


def judge(facts: LogFacts) -> Iterator[Finding]:
    """One finding for each kind of line and what it is about, in the order of their first appearance."""
    if facts.problem:
        yield error(
            "log.unreadable",
            facts.place,
            f"cannot be read: {facts.problem}",
            "give another file: servekit doctor --log FILE",
        )
        return
    seen: dict[tuple[str, str], _Seen] = {}
    explained: dict[str, tuple[KnownLine, re.Match[str], str] | None] = {}  # a server that polls repeats itself
    for number, line in enumerate(facts.lines, start=1):
        text = _STAMP.sub("", line)
        if text not in explained:
            explained[text] = _explanation(text)
        if (found := explained[text]) is not None:
            known, match, cause = found
            one = seen.setdefault((known.code, cause), _Seen(known, match, 0, number, number, line))
            one.count, one.last = one.count + 1, number
    for one in seen.values():
        if not _cured(one, facts.lines):
            yield _finding(one, facts)
    yield from _stuck(facts)


def _explanation(line: str) -> tuple[KnownLine, re.Match[str], str] | None:
    for known in KNOWN_LINES:
        if match := known.pattern.search(line):
            return known, match, _filled(known.cause, match)
    return None


def _finding(one: _Seen, facts: LogFacts) -> Finding:
    times = f", {one.count} times to line {one.last}" if one.count > 1 else ""
    said = "".join(character if character.isprintable() else "?" for character in one.text.strip())
    quoted = said if len(said) <= 160 else f"{said[:157]}..."
    severity, cause = one.known.severity, _filled(one.known.cause, one.match)
    return Finding(
        one.known.code,
        severity,
        f"{facts.place}:{one.first}{times}",
        f"{cause} [{quoted}]",
        _filled(one.known.remedy, one.match),
    )


def _cured(one: _Seen, lines: Sequence[str]) -> bool:
    pattern = one.known.cured_by
    if pattern is None:
        return False
    if "{" in pattern:
        if any(value is None for value in one.match.groupdict().values()):
            return False
        pattern = _filled(pattern, one.match, escape=True)
    return any(re.search(pattern, line) for line in lines[one.last :])


def _filled(template: str, match: re.Match[str], *, escape: bool = False) -> str:
    def text(value: str | None) -> str:
        return re.escape(value) if escape and value else value or "unnamed"

    named = {name: text(value) for name, value in match.groupdict().items()}
    groups = [text(value) for value in match.groups()]
    path = groups[-1] if groups else ""
    return template.format("", *groups, **{"path": path, **named})


def _stuck(facts: LogFacts) -> Iterator[Finding]:
    """A reload that began and did not end. It holds a lock: no other reload, by file or by gRPC, gets through."""
    begun = next(
        (i for i in range(len(facts.lines) - 1, -1, -1) if _BEGUN in facts.lines[i] and _DONE not in facts.lines[i]),
        None,
    )
    if begun is None or any(_DONE in line for line in facts.lines[begun:]):
        return
    if any("failed to ReloadConfig" in line for line in facts.lines[begun:]):
        return
    then, now = _time(facts.lines[begun]), facts.now or _last_time(facts.lines)
    if then is None or now is None or (now - then).total_seconds() < STUCK_S:
        return
    names = [found[1] for line in facts.lines[begun:] if (found := re.search(r"\(Re-\)adding model: (\S+)", line))]
    yield Finding(
        "log.reload-stuck",
        Severity.ERROR,
        f"{facts.place}:{begun + 1}",
        f"a reload began at {then:%H:%M:%S} and has not ended (models: {', '.join(names) or 'unknown'}): it waits "
        "for a folder without versions or a load, and no other change gets through meanwhile",
        "servekit doctor --only config,versions; export what is missing, or start the server again",
    )


def _time(line: str) -> datetime | None:
    found = _TIME.search(line)
    return datetime.fromisoformat(found[1].replace("T", " ")) if found else None


def _last_time(lines: Sequence[str]) -> datetime | None:
    return next((moment for line in reversed(lines) if (moment := _time(line))), None)


def looked_at(facts: LogFacts) -> str:
    return "" if facts.problem else f"{len(facts.lines)} lines of {facts.place}"
