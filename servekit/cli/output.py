"""How commands talk: results on stdout, progress on stderr, JSON as exactly one document."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson


def print_json(document: Any) -> None:
    """One indented JSON document and a newline on stdout."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr, flush=True)


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
