"""The images of the stack: there already, or pulled and built, or the reason why they cannot be had."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping

from servekit.engine import docker
from servekit.engine.choose import Engine, Unusable
from servekit.engine.docker import Compose, Service
from servekit.errors import EngineError

_WAY_OUT = "servekit up --engine embedded"


def probe(stack: Compose | Unusable, say: Callable[[str], None]) -> Engine | Unusable:
    """Usable when every image is there; those that are not are pulled and built first."""
    if isinstance(stack, Unusable):
        return stack
    if not (stack.bundle.root / "docker-compose.yaml").is_file():
        return Unusable(f"no docker-compose.yaml in {stack.bundle.root}", _WAY_OUT)
    try:
        problem = _problem(stack, stack.services(), say)
    except EngineError as error:
        return Unusable(error.message, error.hint or _WAY_OUT)
    if problem is not None:
        return Unusable(problem, _WAY_OUT)
    return Engine("docker", (), str(stack.tools), listens_where_told=True)


def _problem(stack: Compose, services: Mapping[str, Service], say: Callable[[str], None]) -> str | None:
    program = stack.tools.docker
    missing = {name: one for name, one in services.items() if not docker.has_image(program, one.image)}
    own = {one.image for one in services.values() if one.builds}
    pulled = {name: one.image for name, one in missing.items() if one.image not in own}
    for image in pulled.values():
        if (problem := docker.registry_problem(program, image)) is not None:
            return f"image {image} is not here and cannot be pulled: {problem}"
    if pulled:
        say(f"docker compose pull {' '.join(pulled)}")
        if (problem := _shown(stack, "pull", *pulled)) is not None:
            return f"docker compose pull: {problem}"
    for name, one in services.items():
        if not one.builds or not (name in missing or _is_old(stack, one.image)):
            continue
        say(f"docker compose build {name}")
        if (problem := _shown(stack, "build", name)) is None:
            continue
        if name in missing:
            return f"image {one.image} cannot be built: {problem}"
        say(f"warning: image {one.image} is older than the code, and cannot be built again: {problem}")
    return None


def _is_old(stack: Compose, image: str) -> bool:
    """Whether anything that our image is made of is newer."""
    created = docker.created(stack.tools.docker, image)
    root = stack.bundle.root
    sources = [root / "Dockerfile", root / "requirements" / "run.txt", *(root / "servekit").rglob("*.py")]
    newest = max((path.stat().st_mtime for path in sources if path.is_file()), default=0)
    return created is not None and newest > created


def _shown(stack: Compose, *arguments: str) -> str | None:
    """Runs with its output on stderr; None, or the last line of a failure."""
    child = subprocess.Popen(
        stack.command(*arguments),
        env=stack.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last = ""
    with child:  # closes its pipe and waits
        try:
            assert child.stdout
            for line in child.stdout:
                print(f"  {line.rstrip()}", file=sys.stderr, flush=True)
                last = line.strip() or last
        except BaseException:
            child.terminate()
            raise
    return None if child.returncode == 0 else last or f"exit status {child.returncode}"
