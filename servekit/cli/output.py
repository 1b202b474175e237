"""How commands talk: results on stdout, progress on stderr, JSON as exactly one document."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def print_json(document: Any) -> None:
    """One indented JSON document and a newline on stdout, as UTF-8 whatever the terminal's encoding is."""
    import orjson

    try:
        text = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    except TypeError:  # a file's name that is not UTF-8; the standard library escapes what it cannot be
        text = json.dumps(document, indent=2).encode()
    sys.stdout.flush()
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_hint(hint: str) -> None:
    say("hint: " + as_typed(hint))


def as_typed(text: str) -> str:
    """`servekit ...` with the program as this person types it: scripts/servekit says how it was started."""
    program = shlex.quote(os.environ.get("SERVEKIT_COMMAND", "servekit"))
    return re.sub(r"(?<![\w/.`-])servekit (?=[a-z])", lambda _: f"{program} ", text)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """One line a stage with the seconds it took; on a terminal the line appears at once and is completed in place."""
    live = sys.stderr.isatty()
    if live:
        print(f"  {text} ...", end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        if live:
            print(" failed", file=sys.stderr, flush=True)
        raise
    seconds = f"{time.monotonic() - start:.1f} s"
    print(f" {seconds}" if live else f"  {text}: {seconds}", file=sys.stderr, flush=True)
