"""The winner into serving.yaml, every other line as it was; the evidence in the lines above."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from servekit.atomic import write_atomically
from servekit.canary.rewrite import remove, set_value
from servekit.config.load import read_text, shown_path, typed
from servekit.config.source import parse
from servekit.errors import ConfigError, Problem
from servekit.tune.setting import Value, applied, setting_of

MARK = "# tuned: "


def rewritten(text: str, file: str, changes: Mapping[str, Value], evidence: Sequence[str]) -> str:
    """serving.yaml's text with `changes`, and `evidence` above the first section that they are in.

    Raises ConfigError where the text does not allow it (the value comes from an anchor, say).
    """
    before = typed(parse(text, file))
    wanted = applied(before, setting_of(before).with_(changes))
    result = text
    try:
        for key, value in changes.items():
            path = tuple(key.split("."))
            result = remove(result, path) if value is None else set_value(result, path, value)
        if typed(parse(result, file)) == wanted:
            return _with_evidence(result, next(iter(changes)).partition(".")[0], evidence)
    except (ConfigError, KeyError, ValueError):
        pass
    hint = "; ".join(f"{key}: {value}" for key, value in changes.items())
    raise ConfigError([Problem(file, None, "", "cannot be changed without changing something else", f"set {hint}")])


def write(path: Path, changes: Mapping[str, Value], evidence: Sequence[str], *, before: str) -> None:
    """Raises ConfigError when the file is not `before` any more: somebody edited it meanwhile."""
    file = shown_path(path)
    if read_text(path) != before:
        raise ConfigError(
            [Problem(file, None, "", "was edited during the tuning: it is left as it is", "run the same command again")]
        )
    write_atomically(path, rewritten(before, file, changes, evidence), mode=path.stat().st_mode & 0o777)


def _with_evidence(text: str, section: str, evidence: Sequence[str]) -> str:
    end = "\r" if "\r\n" in text else ""
    lines = [line for line in text.split("\n") if not line.startswith(MARK)]
    place = next(number for number, line in enumerate(lines) if line.startswith(f"{section}:"))
    told = [MARK + part + end for line in evidence for part in textwrap.wrap(line, 120 - len(MARK))]
    return "\n".join([*lines[:place], *told, *lines[place:]])
