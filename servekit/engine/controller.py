"""The controller beside a server of this machine: `servekit apply --watch`, which ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from servekit.engine import log as server_log
from servekit.engine import process
from servekit.paths import Bundle
from servekit.rollout.at_work import AtWork, at_work

GRACE_S = 5.0
LOG = "controller.log"


def start(bundle: Bundle, *, detach: bool) -> subprocess.Popen[bytes]:
    """In the foreground (not `detach`) it ends with us, in any case with the server that was started last."""
    with server_log.start_new(server_log.path(bundle).with_name(LOG)) as output:
        return process.spawn(
            [sys.executable, "-m", "servekit", "apply", "--watch", "--with-server"],
            output,
            env={"SERVEKIT_HOME": str(bundle.root.absolute())},
            when_we_die=None if detach else signal.SIGTERM,
        )


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
