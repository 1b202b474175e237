"""Check `engine`: what can serve here, what does, and servers that nobody remembers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.doctor.finding import Finding, error, warning
from servekit.doctor.programs import ask
from servekit.engine import state
from servekit.engine.choose import NATIVE_PROGRAM
from servekit.engine.state import EngineState
from servekit.paths import Bundle


@dataclass(frozen=True, slots=True)
class Orphan:
    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """`engines`: those that work here, in the order of preference. `native_problem`: a binary that does not run."""

    engines: tuple[str, ...]
    native_problem: str | None = None
    running: EngineState | None = None
    ended: EngineState | None = None
    """A server that `up` left running and that is gone."""
    orphans: tuple[Orphan, ...] = ()


def gather(bundle: Bundle, *, docker_works: bool, containers: Sequence[str]) -> EngineFacts:
    """`containers`: ids, or their beginnings, of those of this bundle that run."""
    known = state.read(bundle)
    running = known if known and _runs(known, containers) else None
    native, problem = _native()
    engines = [("docker", docker_works), ("native", native), ("embedded", has_tensorflow())]
    return EngineFacts(
        tuple(name for name, works in engines if works),
        problem,
        running,
        known if known and not running and (docker_works or not known.container) else None,
        tuple(_orphans(bundle, running)),
    )


def _runs(known: EngineState, containers: Sequence[str]) -> bool:
    if known.container:
        return any(known.container.startswith(one) or one.startswith(known.container) for one in containers)
    return known.is_running()


def has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _native() -> tuple[bool, str | None]:
    if shutil.which(NATIVE_PROGRAM) is None:
        return False, None
    answer = ask([NATIVE_PROGRAM, "--version"])
    return answer.ok, None if answer.ok else f"{answer.complaint()} (exit status {answer.status})"


def _orphans(bundle: Bundle, running: EngineState | None) -> Iterator[Orphan]:
    """Processes that serve this bundle's rendered files and that no state names."""
    wanted = f"--model_config_file={bundle.rendered}/models.config"
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        if pid == os.getpid() or (running and pid == running.pid):
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if wanted in words and state.born(pid) and not _below(pid, running):
            yield Orphan(pid, " ".join(words[:4]))


def _below(pid: int, running: EngineState | None) -> bool:
    """A child of the server, which has the same command line until it has become another program."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return False
    return running is not None and parent == running.pid


def judge(facts: EngineFacts) -> Iterator[Finding]:
    if facts.native_problem:
        yield warning(
            "engine.native-broken",
            NATIVE_PROGRAM,
            f"is on PATH and does not run: {facts.native_problem}",
            f"{NATIVE_PROGRAM} --version; servekit up --engine embedded works without it",
        )
    if not facts.engines:
        yield error(
            "engine.none",
            "servekit up",
            f"nothing can serve here: no Docker engine, no {NATIVE_PROGRAM}, no TensorFlow",
            "pip install tensorflow-cpu, or start Docker",
        )
    if facts.ended:
        yield warning(
            "engine.ended",
            f"{facts.ended.engine} server, {facts.ended.where}",
            f"was started {facts.ended.started} and has ended by itself; its log: {facts.ended.log}",
            f"{_explained(facts.ended)}; servekit up starts it again",
        )
    for orphan in facts.orphans:
        yield warning(
            "engine.orphan",
            f"process {orphan.pid}",
            f"serves this bundle and `servekit down` does not know it ({orphan.command})",
            f"kill {orphan.pid}",
        )


def _explained(ended: EngineState) -> str:
    return f"{ended.log} | servekit doctor --log -" if ended.container else f"servekit doctor --log {ended.log}"


def looked_at(facts: EngineFacts, container: str | None = None) -> str:
    """`container`: the model server's, which `docker compose up` may have started without us."""
    works = f"works here: {', '.join(facts.engines) or 'none'}"
    if facts.running:
        return f"{facts.running.engine} server runs, {facts.running.where}; {works}"
    return f"{container} runs; {works}" if container else f"no server runs; {works}"
