"""Ending a server and what is beside it in order: the controller, no new requests, those under way, the gateway, the
server."""

from __future__ import annotations

import dataclasses

from servekit.engine import controller, gateway, process, state
from servekit.engine.state import EngineState
from servekit.paths import Bundle

GRACE_S = 12.0
"""The embedded server drains for up to 8 s."""


def stop(bundle: Bundle, running: EngineState) -> bool:
    """Ends a server found by its state and forgets it. False when it had to be killed.

    A Ctrl-C meanwhile kills both.
    """
    known = _known(bundle, running)
    running = known or running
    if known is not None:
        state.write(bundle, dataclasses.replace(known, stopping=True))
    try:
        controller.end(bundle)
        if running.gateway is not None:
            gateway.end(bundle, running.gateway)
        gently = process.end(running.pid, running.born, GRACE_S)
    except KeyboardInterrupt:
        if running.gateway is not None:
            process.end(running.gateway.pid, running.gateway.born, 0)
        gently = process.end(running.pid, running.born, 0)
    if _known(bundle, running) is not None:
        state.remove(bundle)
    return gently


def _known(bundle: Bundle, running: EngineState) -> EngineState | None:
    """What is written down about it by now, such as a gateway that was started again."""
    written = state.read(bundle)
    return written if written and (written.pid, written.born) == (running.pid, running.born) else None
