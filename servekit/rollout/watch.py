"""`servekit apply --watch`: serving.yaml and the model folders, whenever they change."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from servekit.canary.loop import Analyses
from servekit.config.bundle import check_folders
from servekit.config.folders import last_written_ns
from servekit.config.load import load_with_source
from servekit.config.serving import Serving
from servekit.errors import ServekitError
from servekit.paths import Bundle
from servekit.rollout.controller import Controller
from servekit.rollout.metrics import Metrics
from servekit.rollout.plan import CANARY, Change

INTERVAL_S = 1.0
NEWS_S = 0.1
"""How often it is seen whether a check has ended."""
WRITTEN_S = 0.2
"""An editor that writes in place is done by then: half of serving.yaml may be one that has fewer models."""
COPIED_S = 3.0
"""Without a newer file, a version's folder is complete."""


_Stamp = tuple[int, int, int] | None


def _stamp(bundle: Bundle) -> _Stamp:
    """Another one for another serving.yaml, however it was written; None where there is none."""
    try:
        found = bundle.serving_yaml.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def desired(bundle: Bundle) -> Serving:
    """serving.yaml, held against the model folders. Raises ConfigError before a server sees any of it."""
    serving, source = load_with_source(bundle.serving_yaml)
    check_folders(serving, source, bundle.models)
    return serving


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a change was made from. The same attempt again would end the same way.

    `written_ns`: when a file of the versions that are to be served was written last; a version may be tried while it
    is still copied.
    """

    name: str
    desired: str
    published: frozenset[int]
    behind: bool
    silent: bool
    written_ns: int

    @classmethod
    def of(cls, change: Change, written_ns: int) -> _Attempt:
        wanted = change.desired.model_dump_json() if change.desired else ""
        return cls(change.name, wanted, change.seen.published, change.seen.behind, change.seen.silent, written_ns)

    def is_among(self, known: Collection[_Attempt]) -> bool:
        """Also while files are written: each of them would be another attempt."""
        if time.time_ns() - self.written_ns < COPIED_S * 1e9:
            return any(replace(one, written_ns=self.written_ns) == self for one in known)
        return self in known


class Watch:
    """Converges until `stop` is set. What was refused or failed is not tried again before its file or folder changes,
    what waited for the gateway not before that answers.

    A mistake in serving.yaml, a full disk or a server that is gone is said once, and again when it changes; the server
    keeps what it has.
    """

    def __init__(
        self,
        bundle: Bundle,
        controller: Controller,
        metrics: Metrics,
        say: Callable[[str], None],
        analyses: Analyses | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bundle = bundle
        self._controller = controller
        self._metrics = metrics
        self._say = say
        self._analyses = analyses
        self._sleep = sleep
        self._wrong: set[_Attempt] = set()
        self._known: _Stamp = None
        self._at_rest: set[str] = set()
        self._next_analysis = 0.0
        self._said = ""

    def run(self, stop: threading.Event, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Until `stop`, or until `goes_on` says no."""
        while not stop.is_set() and goes_on():
            if self.once():
                continue  # what the analysis decided is brought about at once
            deadline = time.monotonic() + INTERVAL_S
            while time.monotonic() < deadline and not stop.wait(NEWS_S):
                if self._analyses is not None and self._analyses.has_news():
                    break

    def once(self) -> bool:
        """True when serving.yaml was edited by the analysis, or by anybody while this was at work."""
        edited = False
        try:
            self._known = self._whole()
            serving = desired(self._bundle)
            changes = list(self._controller.plan(serving, patience_s=0))
            self._at_rest = {change.name for change, steps in changes if steps == ()}
            written = {change.name: self._written_ns(change) for change, steps in changes if steps}
            if any(steps and not self._was_wrong(change) for change, steps in changes):
                wrong = self._controller.converge(
                    serving,
                    skip=self._was_wrong,
                    superseded=lambda: self._is_superseded(serving),
                )
                # One that began with a gateway that answered is tried once more: the gateway may be back.
                self._wrong |= {
                    _Attempt.of(one.change, written.get(one.change.name, 0))
                    for one in wrong
                    if not one.waits or one.change.seen.silent
                }
                if self._is_superseded(serving):
                    return True
                changes = list(self._controller.plan(serving, patience_s=0))
            self._metrics.seen((change for change, _ in changes), converged=not any(steps for _, steps in changes))
            if self._analyses is not None:
                converged = {change.name for change, steps in changes if steps == ()}
                edited = self._analyses.once(serving, converged, self._not_loaded(change for change, _ in changes))
        except (ServekitError, OSError) as error:
            self._metrics.error()
            self._tell(str(error))
        else:
            self._said = ""
        return edited

    def _whole(self) -> _Stamp:
        stamp = _stamp(self._bundle)
        if stamp and stamp != self._known and 0 <= time.time_ns() - stamp[0] < WRITTEN_S * 1e9:
            self._sleep(WRITTEN_S)
            stamp = _stamp(self._bundle)
        return stamp

    def _is_superseded(self, serving: Serving) -> bool:
        """By an edit that can be read. Meanwhile the canaries of models that are as they should be are analysed."""
        if self._analyses is not None and time.monotonic() >= self._next_analysis:
            self._next_analysis = time.monotonic() + INTERVAL_S
            with contextlib.suppress(ServekitError, OSError):  # what could not be written is told by the next round
                self._analyses.once(serving, self._at_rest, {})
        if (stamp := _stamp(self._bundle)) == self._known:
            return False
        with contextlib.suppress(ServekitError, OSError):
            if desired(self._bundle) != serving:
                return True
        self._known = stamp
        return False

    def _not_loaded(self, changes: Iterable[Change]) -> dict[str, str]:
        """By model, the server's error for the version that was to be the canary, where all was tried."""
        result = {}
        for change in changes:
            version = change.desired.labels.get(CANARY) if change.desired else None
            if version is not None and version in change.seen.failed and self._was_wrong(change):
                result[change.name] = change.seen.failed[version]
        return result

    def _was_wrong(self, change: Change) -> bool:
        return bool(self._wrong) and _Attempt.of(change, self._written_ns(change)).is_among(self._wrong)

    def _written_ns(self, change: Change) -> int:
        if change.desired is None:
            return 0
        return last_written_ns(Path(change.desired.folder(change.name, self._bundle.models.absolute())), change.served)

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            with contextlib.suppress(OSError):
                self._say(f"error: {text}")
