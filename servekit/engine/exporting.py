"""Versions that are configured and not published: which, and exporting them with their recipes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from servekit.config.folders import published_versions
from servekit.config.models import Latest, Model, Specific
from servekit.config.serving import Serving
from servekit.engine import process, state
from servekit.errors import EngineError
from servekit.paths import Bundle

AT_ONCE = 2
NEEDED_MB = 500
"""Room that exporting small models needs while their staging folders exist."""

_INTERRUPTS = 4
_GRACE_S = 3.0
"""After each interrupt."""
_COMMAND = (sys.executable, "-m", "servekit", "export")

RecipeVersions = Callable[[str], Sequence[int]]
"""The versions that a model's recipe makes."""


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    model: str
    version: int

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


def missing_versions(serving: Serving, bundle: Bundle, recipe_versions: RecipeVersions) -> list[Missing]:
    """What `up` has to export. Models with a base_path of their own are published by somebody else.

    Raises EngineError for a model that has no recipe.
    """
    missing = []
    for name, model in serving.models.items():
        if model.base_path is not None:
            continue
        published = published_versions(bundle.models / name) or set()
        found = sorted(set(_wanted(name, model, published, recipe_versions)) - published)
        if found and not (bundle.recipes / f"{name}.py").is_file():
            raise EngineError(
                f"models/{name}/{found[0]} is missing and there is no recipe export/{name}.py to make it",
                hint=f"put the SavedModel into models/{name}/{found[0]}, or write the recipe",
            )
        missing += [Missing(name, version) for version in found]
    return missing


def _wanted(name: str, model: Model, published: set[int], recipe_versions: RecipeVersions) -> Iterator[int]:
    yield from model.labels.values()
    if isinstance(model.versions, Specific):
        yield from model.versions.specific
    elif not published:
        versions = sorted(recipe_versions(name))
        yield from versions[-model.versions.latest :] if isinstance(model.versions, Latest) else versions


def recipe_versions(model: str) -> list[int]:
    """Asks `servekit export --list`: recipes are the exporter's to read. Version 1 for a recipe that names none."""
    answer = subprocess.run([*_COMMAND, "--list", "--json"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise EngineError(f"the recipes cannot be listed: {answer.stderr.strip()}")
    for entry in json.loads(answer.stdout)["recipes"]:
        if entry["model"] == model and "variants" in entry:
            return [variant["version"] for variant in entry["variants"] if variant["version"] is not None] or [1]
    return [1]


@dataclass(slots=True)
class _Export:
    what: Missing
    process: subprocess.Popen[bytes]
    birth: str
    started: float
    unfinished_line: bytes = b""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=15))


def export_all(missing: Sequence[Missing], say: Callable[[str], None]) -> None:
    """Runs `servekit export`, two at a time; every line of theirs goes to `say` with the version before it.

    Raises EngineError with the reason as soon as one fails; the others are ended, what is published stays.
    """
    waiting = list(missing)
    with selectors.DefaultSelector() as selector, _ended_afterwards(selector):
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < AT_ONCE:
                one = _start(waiting.pop(0))
                assert one.process.stdout is not None
                selector.register(one.process.stdout, selectors.EVENT_READ, one)
            for key, _ in selector.select():
                one = key.data
                if data := os.read(key.fd, 65536):
                    _pass_on(one, data, say)
                else:
                    selector.unregister(key.fileobj)
                    _finish(one, say)


def _start(what: Missing) -> _Export:
    command = [*_COMMAND, what.model, "--version", str(what.version)]
    child = process.spawn(command, subprocess.PIPE, env={"PYTHONUNBUFFERED": "1"}, when_we_die=signal.SIGINT)
    return _Export(what, child, state.born(child.pid) or "", time.monotonic())


def _pass_on(one: _Export, data: bytes, say: Callable[[str], None]) -> None:
    *lines, one.unfinished_line = (one.unfinished_line + data).split(b"\n")
    for line in lines:
        text = line.decode(errors="replace").strip()
        if text:
            one.last_lines.append(text)
            say(f"  {one.what.model}/{one.what.version}  {text}")


def _finish(one: _Export, say: Callable[[str], None]) -> None:
    _pass_on(one, b"\n", say)
    with one.process:  # closes its pipe and waits
        pass
    status = one.process.returncode
    if status == 0:
        say(f"  {one.what} exported: {time.monotonic() - one.started:.1f} s")
        return
    errors = [line for line in one.last_lines if line.startswith("error: ")]
    why = errors[-1].removeprefix("error: ") if errors else f"exit status {status}"
    raise EngineError(
        f"{one.what} could not be exported: {why}",
        hint=f"servekit export {one.what.model} --version {one.what.version}",
    )


@contextmanager
def _ended_afterwards(selector: selectors.BaseSelector) -> Iterator[None]:
    """However this is left, no export stays behind; SIGINT lets them remove their staging folders."""
    try:
        yield
    finally:
        _end([key.data for key in selector.get_map().values()])


def _end(exports: Sequence[_Export]) -> None:
    """All at once, and each more than once: an interrupt that hits a callback of TensorFlow's import is lost."""
    for _ in range(_INTERRUPTS):
        for one in exports:
            if state.born(one.process.pid) == one.birth:
                one.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_S
        while any(state.born(one.process.pid) == one.birth for one in exports) and time.monotonic() < deadline:
            time.sleep(0.05)
    for one in exports:
        process.end(one.process.pid, one.birth, 0, signal.SIGINT)
        with one.process:  # closes its pipe and waits
            pass
