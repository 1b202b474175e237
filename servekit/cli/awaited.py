"""Waiting for the controller that watches here to bring about what serving.yaml says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from servekit.cli.output import say
from servekit.errors import ServekitError

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.paths import Bundle
    from servekit.rollout.controller import Controller

_POLL_S = 0.5


def is_watched(here: Bundle) -> bool:
    from servekit.rollout.at_work import at_work

    found = at_work(here)
    return found is not None and found.watches


def wait(here: Bundle, controller: Controller, serving: Serving, patience_s: float) -> bool:
    """True when all is as it should be; False when a step failed meanwhile, or time is up. Raises Unreachable."""
    from servekit.cli.apply import tell
    from servekit.rollout import history

    say("a controller watches here; waiting for it")
    last, deadline = next(reversed(history.read(here).events), None), time.monotonic() + patience_s
    while True:
        refused = [steps for _, steps in controller.plan(serving) if isinstance(steps, ServekitError)]
        if refused:
            raise refused[0]
        new = history.since(history.read(here).events, last)
        for event in new:
            tell(event)
            last = event
        if any(event.result in ("failed", "refused", "waiting") for event in new):
            return False
        if not any(steps for _, steps in controller.plan(serving)):
            return True
        if time.monotonic() > deadline:
            say("error: it is not done yet: servekit canary status")
            return False
        time.sleep(_POLL_S)
