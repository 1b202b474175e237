"""The controller beside a server of this machine: `servekit apply --watch`, which ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from servekit.engine import log as server_log
from servekit.engine import process, state
from servekit.errors import EngineError
from servekit.paths import Bundle
from servekit.rollout.at_work import AtWork, at_work

GRACE_S = 5.0
LOG = "controller.log"
_OFTEN, _OFTEN_S = 3, 30.0


def start(bundle: Bundle, *, detach: bool) -> subprocess.Popen[bytes]:
    """In the foreground (not `detach`) it ends with us, in any case with the server that was started last."""
    with server_log.start_new(log(bundle)) as output:
        return process.spawn(
            [sys.executable, "-m", "servekit", "apply", "--watch", "--with-server"],
            output,
            env={"SERVEKIT_HOME": str(bundle.root.absolute())},
            when_we_die=None if detach else signal.SIGTERM,
        )


def log(bundle: Bundle) -> Path:
    return server_log.path(bundle).with_name(LOG)


class Guard:
    """Starts the controller again when it has ended while its server runs, unless somebody else watches."""

    def __init__(self, bundle: Bundle, child: subprocess.Popen[bytes]) -> None:
        self._bundle = bundle
        self._child = child
        self._ends: list[float] = []
        self._gave_up = False

    def started_again(self) -> bool:
        """False when it runs, or is not meant to. Raises EngineError, once, when it keeps ending: requests are answered
        without it, so that this is no reason to end the server."""
        if self._gave_up or self._child.poll() is None:
            return False
        known = state.read(self._bundle)
        if known is None or known.stopping or not known.is_running() or at_work(self._bundle) is not None:
            return False
        now = time.monotonic()
        self._ends = [*(moment for moment in self._ends if now - moment < _OFTEN_S), now]
        if len(self._ends) > _OFTEN:
            self._gave_up = True
            raise EngineError(
                f"the controller ended {len(self._ends)} times in {_OFTEN_S:.0f} s and is not started again; edits of "
                "serving.yaml wait",
                hint=f"its log: {log(self._bundle)}; then servekit apply --watch",
            )
        self._child = start(self._bundle, detach=False)
        return True


def end(bundle: Bundle) -> None:
    """The one that `start` started, if it is there; somebody's own `servekit apply --watch` stays."""
    found = at_work(bundle)
    if found is None or not found.with_server:
        return
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(found.pid, number)
        if _gone_within(bundle, found, patience_s):
            return


def _gone_within(bundle: Bundle, known: AtWork, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (now := at_work(bundle)) is not None and now.pid == known.pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
