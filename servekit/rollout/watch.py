"""`servekit apply --watch`: serving.yaml and the model folders, whenever they change."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from servekit.canary.loop import Analyses
from servekit.config.bundle import check_folders
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


def desired(bundle: Bundle) -> Serving:
    """serving.yaml, held against the model folders. Raises ConfigError before a server sees any of it."""
    serving, source = load_with_source(bundle.serving_yaml)
    check_folders(serving, source, bundle.models)
    return serving


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a change was made from. The same attempt again would end the same way."""

    name: str
    desired: str
    published: frozenset[int]
    behind: bool
    silent: bool

    @classmethod
    def of(cls, change: Change) -> _Attempt:
        wanted = change.desired.model_dump_json() if change.desired else ""
        return cls(change.name, wanted, change.seen.published, change.seen.behind, change.seen.silent)


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
    ) -> None:
        self._bundle = bundle
        self._controller = controller
        self._metrics = metrics
        self._say = say
        self._analyses = analyses
        self._wrong: set[_Attempt] = set()
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
        """True when serving.yaml was edited by the analysis."""
        edited = False
        try:
            serving = desired(self._bundle)
            changes = list(self._controller.plan(serving))
            if any(steps and _Attempt.of(change) not in self._wrong for change, steps in changes):
                wrong = self._controller.converge(serving, skip=lambda change: _Attempt.of(change) in self._wrong)
                # One that began with a gateway that answered is tried once more: the gateway may be back.
                self._wrong |= {_Attempt.of(one.change) for one in wrong if not one.waits or one.change.seen.silent}
                changes = list(self._controller.plan(serving))
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

    def _not_loaded(self, changes: Iterable[Change]) -> dict[str, str]:
        """By model, the server's error for the version that was to be the canary, where all was tried."""
        result = {}
        for change in changes:
            version = change.desired.labels.get(CANARY) if change.desired else None
            if version is not None and version in change.seen.failed and _Attempt.of(change) in self._wrong:
                result[change.name] = change.seen.failed[version]
        return result

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            with contextlib.suppress(OSError):
                self._say(f"error: {text}")
