"""Waiting until every configured version answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from servekit.client import Client
from servekit.engine import log as server_log
from servekit.errors import Code, EngineError, StatusError, Unreachable

Wanted = Mapping[str, tuple[int, ...]]
"""Versions that have to be AVAILABLE, by model."""


def wait_until_available(
    client: Client, wanted: Wanted, *, ended: Callable[[], str | None], log: Path, timeout_s: float
) -> None:
    """Raises EngineError when the server ends (`ended` says how), a version fails, or time is up.

    TF Serving opens its ports only when all models of its first configuration are there.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        missing = "nobody answers"
        try:
            missing = ", ".join(_not_available(client, wanted))
            if not missing:
                return
        except Unreachable:
            pass
        except StatusError as error:
            if error.code is not Code.DEADLINE_EXCEEDED:
                missing = str(error)
        if (how := ended()) is not None:
            why = server_log.reason(log)
            raise _failed(f"the server ended ({how})" + (f": {why}" if why else ""), log)
        if time.monotonic() > deadline:
            raise _failed(f"the server is not ready after {timeout_s:.0f} s: {missing}", log)
        time.sleep(0.1)


def _not_available(client: Client, wanted: Wanted) -> list[str]:
    """Raises EngineError for a version that ended with an error: nothing loads it again."""
    missing = []
    for model, versions in wanted.items():
        states = {one.version: one for one in client.status(model, timeout_s=5).versions}
        for version in versions:
            state = states.get(version)
            if state and state.state == "END" and state.code is not Code.OK:
                raise EngineError(f"{model} version {version} did not load: {state.message}")
            if not state or state.state != "AVAILABLE":
                missing.append(f"{model} version {version} is {state.state if state else 'unknown'}")
    return missing


def _failed(message: str, log: Path) -> EngineError:
    lines = "\n".join(f"    {line}" for line in server_log.last_lines(log, 12))
    return EngineError(f"{message}\n{lines}" if lines else message, hint=f"the whole log: {log}")
