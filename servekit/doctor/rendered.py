"""Check `rendered`: are the server's files what serving.yaml means, and does the server see the same ones?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from servekit.config.render import render
from servekit.config.rendered_files import CONTAINER, MODELS, READ_AT_START
from servekit.config.serving import Serving
from servekit.config.write import compare
from servekit.doctor.finding import Finding, error, listed, note, warning
from servekit.doctor.programs import ask
from servekit.doctor.stack import Container
from servekit.errors import ConfigError, ServekitError
from servekit.paths import Bundle


@dataclass(frozen=True, slots=True)
class RenderedFacts:
    problem: str | None = None
    """Why nothing can be rendered, beyond what check `config` says."""
    stale: tuple[str, ...] = ()
    """Below config/rendered, on the side that the server reads; missing files too."""
    none_yet: bool = False
    changed_since_start: tuple[str, ...] = ()
    """Files that a server reads only when it starts, changed since the running one did."""
    container: str = ""
    inside: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """File to hash outside and inside the container (None: not there)."""


def gather(
    bundle: Bundle,
    serving: Serving | None,
    *,
    in_containers: bool,
    started: datetime | None = None,
    container: Container | None = None,
) -> RenderedFacts:
    """`in_containers`: whether the server reads the files with the container's paths; the others may then be those of
    the setup container. `started`: when the running server was; `container`: the one that it runs in."""
    side = bundle.rendered_container if in_containers else bundle.rendered
    problem: str | None = None
    stale: tuple[str, ...] = ()
    if serving is not None:
        try:
            changes = compare(render(serving, models=bundle.models, templates=bundle.templates), bundle.rendered)
            names = (str(c.path.relative_to(bundle.rendered)) for c in changes if c.status != "unchanged")
            stale = tuple(name for name in names if name.startswith(f"{CONTAINER}/") == in_containers)
        except ConfigError as mistake:
            problem = str(mistake.problems[0])
        except ServekitError as mistake:
            problem = mistake.message
    return RenderedFacts(
        problem,
        stale,
        none_yet=not (side / MODELS).exists(),
        changed_since_start=_changed_since(started, side),
        container=container.name if container else "",
        inside=_hashes(container, bundle.rendered_container) if container else {},
    )


def _changed_since(started: datetime | None, folder: Path) -> tuple[str, ...]:
    if started is None:
        return ()
    second = timedelta(seconds=1)  # the start is known to the second
    return tuple(
        name
        for name in READ_AT_START
        if (folder / name).exists()
        and datetime.fromtimestamp((folder / name).stat().st_mtime, timezone.utc) > started + second
    )


def _hashes(container: Container, folder: Path) -> dict[str, tuple[str, str | None]]:
    inside: dict[str, str] = {}
    for source, target in (container.mounts or {}).items():
        if Path(source) == folder:
            inside |= {path.name: f"{target}/{path.name}" for path in folder.glob("*.config")}
        elif Path(source).parent == folder:
            inside[Path(source).name] = target
    seen: dict[str, tuple[str, str | None]] = {}
    for name, path in inside.items():
        # Not `docker cp`, which looks at the mount's source afresh.
        answer = ask(["docker", "exec", container.id, "cat", path])
        if answer.ok:
            seen[name] = (_hash(_text(folder / name)), _hash(answer.out))
        elif "No such file" in answer.err:
            seen[name] = (_hash(_text(folder / name)), None)
    return seen


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _hash(text: str | None) -> str:
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()


def judge(facts: RenderedFacts) -> Iterator[Finding]:
    if facts.problem:
        yield error("rendered.impossible", "config/templates", facts.problem, "git checkout config/templates")
    if facts.none_yet:
        yield note("rendered.not-yet", "config/rendered", "nothing was rendered yet", "servekit render, or servekit up")
    elif facts.stale:
        yield warning(
            "rendered.stale",
            "config/rendered",
            f"not what serving.yaml means: {listed(facts.stale)}; edited by hand, or not rendered since the last edit",
            "servekit render --diff, then servekit render",
        )
    if facts.changed_since_start:
        yield warning(
            "rendered.restart-needed",
            "config/rendered",
            f"changed after the server started, which reads it only then: {listed(facts.changed_since_start)}",
            "docker compose restart tfserving" if facts.container else "servekit down, then servekit up",
        )
    for name, (outside, inside) in facts.inside.items():
        if inside is None:
            yield error(
                "rendered.not-in-container",
                f"container {facts.container}",
                f"does not see {name}",
                "docker compose up -d --force-recreate tfserving",
            )
        elif outside and inside != outside:
            yield error(
                "rendered.container-sees-old",
                f"container {facts.container}",
                f"sees another {name} than config/rendered/container has: it is mounted as a single file, or the "
                "folder was replaced",
                "docker compose up -d --force-recreate tfserving",
            )


def looked_at(facts: RenderedFacts) -> str:
    if facts.none_yet or facts.problem or facts.stale:
        return ""
    return "config/rendered is what serving.yaml means" + (f", and {facts.container} sees it" if facts.inside else "")
