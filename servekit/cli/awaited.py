"""Waiting for the controller that watches here to bring about what serving.yaml says."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from servekit.cli.output import say
from servekit.errors import ServekitError

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.paths import Bundle
    from servekit.rollout.controller import Controller
    from servekit.rollout.history import Event

_POLL_S = 0.5
_QUIET_S = 15.0
"""A controller looks at serving.yaml every second; one that does nothing for so long has given up."""


def is_watched(here: Bundle) -> bool:
    from servekit.rollout.at_work import at_work

    found = at_work(here)
    return found is not None and found.watches


def wait(here: Bundle, controller: Controller, serving: Serving, patience_s: float) -> bool:
    """True when all is as it should be; False when a step failed meanwhile, or time is up. Raises Unreachable."""
    from servekit.cli.apply import tell
    from servekit.rollout import history

    say("the controller at work here brings it about")
    deadline = time.monotonic() + patience_s
    quiet_since = time.monotonic()
    last = _last_before_edit(here)
    while True:
        asked = time.monotonic()
        plans = [steps for _, steps in controller.plan(serving)]
        quiet_since += time.monotonic() - asked  # it waits for versions on their way, as the controller does
        if refused := [steps for steps in plans if isinstance(steps, ServekitError)]:
            raise refused[0]
        kept = history.read(here)
        new = history.since(kept.events, last)
        for event in new:
            tell(event)
            last = event
        if not any(plans) and not kept.phase:
            return True
        if any(event.result in ("failed", "refused", "waiting") and event.step != "check" for event in new):
            return False
        if new or kept.phase:
            quiet_since = time.monotonic()
        if time.monotonic() > min(deadline, quiet_since + _QUIET_S):
            say("error: it is not done, and the controller does not try again what failed before its entry in "
                "serving.yaml or its model folder changes: servekit apply --history")  # fmt: skip
            return False
        time.sleep(_POLL_S)


def _last_before_edit(here: Bundle) -> Event | None:
    """What came after it followed from serving.yaml as it is now, and may be done already."""
    from servekit.rollout import history

    edited = here.serving_yaml.stat().st_mtime - 1  # events have whole seconds
    before = [one for one in history.read(here).events if datetime.fromisoformat(one.at).timestamp() < edited]
    return before[-1] if before else None
