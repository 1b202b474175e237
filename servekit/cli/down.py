"""`servekit down`: ends the server that `up` started."""

from __future__ import annotations

import time

import click

from servekit.cli.output import say
from servekit.errors import EngineError
from servekit.paths import bundle


@click.command(name="down")
def command() -> None:
    """End the server that `servekit up` started here, and wait until it is gone.

    Running requests may end first; what is left after 12 s is killed. Exit status 0 also when nothing was running.
    """
    from servekit.engine import process, state

    here = bundle()
    known = state.read(here)
    if known is None:
        say("nothing is running")
        return
    if not known.is_running():
        state.remove(here)
        say(f"nothing is running; the server of {known.started} (pid {known.pid}) had ended by itself")
        return
    start = time.monotonic()
    try:
        gently = process.stop(here, known)
    except PermissionError:
        raise EngineError(f"the server (pid {known.pid}) belongs to another user") from None
    how = "stopped" if gently else "killed, because it did not stop"
    say(f"server {how} (pid {known.pid}): {time.monotonic() - start:.1f} s")
