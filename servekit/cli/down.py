"""`servekit down`: ends the server that `up` started."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from servekit.cli.output import say
from servekit.errors import EngineError
from servekit.paths import bundle

if TYPE_CHECKING:
    from servekit.engine.state import EngineState
    from servekit.paths import Bundle


@click.command(name="down")
@click.option("--volumes", is_flag=True, help="Docker: remove metrics, Grafana's own data and its password too.")
def command(volumes: bool) -> None:
    """End the server that `servekit up` started here, and wait until it is gone.

    Running requests may end first: the gateway takes no new ones, then gives those under way 8 s; a server that is left
    after another 12 s is killed. With docker it is `docker compose down`: models stay, and so do metrics unless
    --volumes is given. Exit status 0 also when nothing was running.
    """
    from servekit.engine import state

    here = bundle()
    known = state.read(here)
    if known is not None and not known.container:
        _end_process(here, known)
    elif not _end_stack(here, asked=known is not None or volumes, volumes=volumes):
        say("nothing is running")


def _end_process(here: Bundle, known: EngineState) -> None:
    from servekit.engine import gateway, state
    from servekit.engine.stop import stop

    if not known.is_running():
        if known.gateway is not None:
            gateway.end(here, known.gateway)
        state.remove(here)
        say(f"nothing is running; the server of {known.started} ({known.where}) had ended by itself")
        return
    start = time.monotonic()
    try:
        gently = stop(here, known)
    except PermissionError:
        raise EngineError(f"the server ({known.where}) belongs to another user") from None
    how = "stopped" if gently else "killed, because it did not stop"
    say(f"server {how} ({known.where}): {time.monotonic() - start:.1f} s")


def _end_stack(here: Bundle, *, asked: bool, volumes: bool) -> bool:
    """Also a stack that `docker compose up` started. False when there is none."""
    from servekit.engine import docker, stack

    tools = docker.tools()
    if isinstance(tools, str):
        if asked:
            raise EngineError(f"the stack cannot be ended: {tools}", hint="servekit doctor")
        return False
    compose = docker.Compose(tools, here)
    if not asked and not compose.run("ps", "--all", "--quiet").stdout.strip():
        return False
    start = time.monotonic()
    stack.end(compose, volumes=volumes)
    say(f"stack stopped{' and its volumes removed' if volumes else ''}: {time.monotonic() - start:.1f} s")
    return True
