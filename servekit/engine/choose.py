"""Which program serves: the first engine that works here, and why."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servekit.errors import EngineError

NATIVE_PROGRAM = "tensorflow_model_server"


@dataclass(frozen=True, slots=True)
class Engine:
    """`program` is the command line before the flags; `listens_where_told` is False for those that take any address."""

    name: str
    program: tuple[str, ...]
    about: str
    listens_where_told: bool


@dataclass(frozen=True, slots=True)
class Unusable:
    why: str
    hint: str


Probe = Callable[[], Engine | Unusable]


def probes(docker: Probe | None = None) -> dict[str, Probe]:
    """In the order in which `auto` tries them. Docker's needs to know the bundle, so it is the caller's."""
    return ({"docker": docker} if docker else {}) | {"native": _native, "embedded": _embedded}


def choose(requested: str, probes: Mapping[str, Probe]) -> tuple[Engine, str]:
    """The engine and one line that says which and why. Raises EngineError when it cannot run here."""
    if requested != "auto":
        found = probes[requested]()
        if isinstance(found, Unusable):
            raise EngineError(f"engine {requested}: {found.why}", hint=found.hint)
        return found, f"engine {found.name}: {found.about}"
    passed_over: list[str] = []
    hint = None
    for name, probe in probes.items():
        found = probe()
        if isinstance(found, Engine):
            reasons = "; ".join([found.about, *passed_over])
            return found, f"engine {found.name}: {reasons}"
        passed_over.append(f"not {name}: {found.why}")
        hint = found.hint
    raise EngineError(f"no engine works here: {'; '.join(passed_over)}", hint=hint)


def _native() -> Engine | Unusable:
    path = shutil.which(NATIVE_PROGRAM)
    if path is None:
        return Unusable(f"no {NATIVE_PROGRAM} on PATH", "servekit up --engine embedded")
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unusable(f"{path} does not run: {error}", "servekit up --engine embedded")
    if answer.returncode != 0:
        return Unusable(f"{path} --version: exit status {answer.returncode}", "servekit up --engine embedded")
    first_line = (answer.stdout.strip() or path).splitlines()[0]
    return Engine("native", (path,), first_line, listens_where_told=False)


def _embedded() -> Engine | Unusable:
    if importlib.util.find_spec("tensorflow") is None:
        return Unusable("TensorFlow is not installed", "pip install tensorflow-cpu")
    return Engine("embedded", (sys.executable, "-m", "servekit", "serve"), "servekit's own server", True)
