"""The manager: turns aspired versions into loads and unloads, one policy decision at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from servekit.errors import Code, StatusError
from servekit.server.policy import (
    Action,
    AspiredVersionPolicy,
    HarnessState,
    Snapshot,
    Verb,
    availability_preserving,
    first_of,
)
from servekit.server.retrier import retry
from servekit.server.servable import Loader, Servable, ServableId, ServableState, State
from servekit.server.serving_map import ServingMap
from servekit.server.states import EventBus

logger = logging.getLogger(__name__)

TICK_S = 0.1
"""Seconds between two decisions (AspiredVersionsManager::Options::manage_state_interval_micros)."""


@dataclass(slots=True)
class _Harness:
    id: ServableId
    path: Path
    is_aspired: bool = True
    state: HarnessState = HarnessState.NEW
    servable: Servable | None = None
    cancel_retries: threading.Event = field(default_factory=threading.Event)


class AspiredVersionsManager:
    """Loads and unloads versions in the order that the policy gives, and keeps the map of those that answer.

    A thread of its own takes one decision every 0.1 s and, with no load or unload threads, carries it out itself: then
    one slow load, one retry or one long request that keeps an old version alive delays all others, as in TF Serving.
    """

    def __init__(
        self,
        loader: Loader,
        events: EventBus,
        *,
        policy: AspiredVersionPolicy = availability_preserving,
        num_load_threads: int = 0,
        num_unload_threads: int = 0,
        max_num_load_retries: int = 5,
        load_retry_interval_s: float = 60.0,
    ) -> None:
        self.serving = ServingMap()
        self._loader = loader
        self._events = events
        self._policy = policy
        self._max_num_load_retries = max_num_load_retries
        self._load_retry_interval_s = load_retry_interval_s
        self._pending_lock = threading.Lock()
        self._pending: dict[str, dict[int, Path]] = {}
        self._lock = threading.Lock()  # of _managed; held while old handles drain, as BasicManager::mu_ is
        self._managed: dict[str, dict[int, _Harness]] = {}
        self._executors_lock = threading.Lock()
        self._num_load_threads = num_load_threads
        self._load_executor = _executor(num_load_threads, "load")
        self._unload_executor = _executor(num_unload_threads, "unload")
        self._eager = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manage_state", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set_aspired_versions(self, name: str, versions: Mapping[int, Path]) -> None:
        """From now on these versions of `name` are wanted and no others. Returns at once."""
        with self._pending_lock:
            self._pending[name] = dict(versions)

    def load_fast(self, num_threads: int) -> None:
        """Until `load_normally`: decides without pauses and loads in `num_threads` threads (the server is starting)."""
        with self._executors_lock:
            self._load_executor = _executor(num_threads, "initial_load")
        self._eager = True

    def load_normally(self) -> None:
        """Waits for the loads that run and goes back to the configured threads."""
        with self._executors_lock:
            fast, self._load_executor = self._load_executor, _executor(self._num_load_threads, "load")
        self._eager = False
        if fast is not None:
            fast.shutdown(wait=True)

    def stop(self) -> None:
        """Ends decisions, retries and waits, not a load that runs; what is loaded goes with the process."""
        self._stopping.set()
        self.serving.close()
        for harness in self._harnesses():
            harness.cancel_retries.set()
        with self._executors_lock:
            for executor in (self._load_executor, self._unload_executor):
                if executor is not None:
                    executor.shutdown(wait=False, cancel_futures=True)
        if self._thread.ident is not None:
            self._thread.join(timeout=1.0)

    def decide_once(self) -> bool:
        """Takes at most one decision and carries it out; says whether there was one."""
        with self._lock:
            self._forget_ended()
            self._take_pending()
            action = self._next_action()
            harness = self._managed[action.id.name][action.id.version] if action else None
            if harness is not None:
                harness.state = HarnessState.BUSY
        if action is None or harness is None:
            return False
        work = self._load if action.verb is Verb.LOAD else self._unload
        with self._executors_lock:
            executor = self._load_executor if action.verb is Verb.LOAD else self._unload_executor
            if executor is not None and not self._stopping.is_set():
                executor.submit(work, harness)
        if executor is None:
            work(harness)
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            due = time.monotonic() + TICK_S
            try:
                acted = self.decide_once()
            except Exception:
                logger.exception("Unexpected error in the manager; it goes on")
                acted = False
            if not (acted and self._eager):
                self._stopping.wait(max(0.0, due - time.monotonic()))

    def _forget_ended(self) -> None:
        ended = (HarnessState.NEW, HarnessState.DISABLED, HarnessState.ERROR)
        for name, versions in list(self._managed.items()):
            for version, harness in list(versions.items()):
                if not harness.is_aspired and harness.state in ended:
                    del versions[version]
            if not versions:
                del self._managed[name]

    def _take_pending(self) -> None:
        with self._pending_lock:
            ready = {name: v for name, v in self._pending.items() if not self._wants_back(name, v)}
            for name in ready:
                del self._pending[name]
        for name, versions in ready.items():
            self._aspire(name, versions)

    def _wants_back(self, name: str, versions: Mapping[int, Path]) -> bool:
        """A version that is on its way out (or only kept for availability) must be gone before it can be aspired again.

        Until then the whole request waits. This is why a version that failed to load is not tried again when its folder
        is replaced under the policy `latest`: the previous version is kept, unwanted, and wanted back, for ever.
        """
        managed = self._managed.get(name, {})
        return any(version in versions and not harness.is_aspired for version, harness in managed.items())

    def _aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        managed = self._managed.setdefault(name, {})
        for version, harness in managed.items():
            if version not in versions:
                harness.is_aspired = False
                harness.cancel_retries.set()
        for version in sorted(versions):
            if version not in managed:  # a known version keeps the files that it was loaded from
                id = ServableId(name, version)
                managed[version] = _Harness(id, versions[version])
                self._events.publish(ServableState(id, State.START))

    def _next_action(self) -> Action | None:
        models = (
            [Snapshot(harness.id, harness.state, harness.is_aspired) for harness in versions.values()]
            for versions in self._managed.values()
        )
        return first_of([self._policy(snapshots) for snapshots in models])

    def _load(self, harness: _Harness) -> None:
        logger.info("Loading servable version %s", harness.id)
        self._events.publish(ServableState(harness.id, State.LOADING))
        try:
            servable = retry(
                f"Loading servable: {harness.id}",
                lambda: self._try_to_load(harness),
                max_num_retries=self._max_num_load_retries,
                interval_s=self._load_retry_interval_s,
                cancelled=harness.cancel_retries,
            )
        except StatusError as error:
            logger.info("Encountered an error for servable version %s: %s", harness.id, error)
            logger.error("Servable %s cannot be loaded: %s", harness.id, error)
            with self._lock:
                harness.state = HarnessState.ERROR
            self._events.publish(ServableState(harness.id, State.END, error))
            return
        logger.info("Successfully loaded servable version %s", harness.id)
        with self._lock:
            harness.servable = servable
            harness.state = HarnessState.READY
            self._replace_serving_map()
        self._events.publish(ServableState(harness.id, State.AVAILABLE))

    def _try_to_load(self, harness: _Harness) -> Servable:
        try:
            return self._loader.load(harness.id, harness.path)
        except StatusError:
            raise
        except Exception as error:
            # Whatever a model does while loading, only that model may fail.
            logger.exception("Unexpected error while loading %s", harness.id)
            raise StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}") from error

    def _unload(self, harness: _Harness) -> None:
        with self._lock:
            self._events.publish(ServableState(harness.id, State.UNLOADING))
            logger.info("Quiescing servable version %s", harness.id)
            servable, harness.servable = harness.servable, None
            self._replace_serving_map()
            logger.info("Done quiescing servable version %s", harness.id)
        logger.info("Unloading servable version %s", harness.id)
        try:
            if servable is not None:
                servable.close()
        except Exception:
            logger.exception("Unexpected error while unloading %s", harness.id)
        with self._lock:
            harness.state = HarnessState.DISABLED
        logger.info("Done unloading servable version %s", harness.id)
        self._events.publish(ServableState(harness.id, State.END))

    def _replace_serving_map(self) -> None:
        self.serving.replace({h.id: h.servable for h in self._harnesses() if h.servable is not None})

    def _harnesses(self) -> list[_Harness]:
        return [harness for versions in list(self._managed.values()) for harness in list(versions.values())]


def _executor(num_threads: int, name: str) -> ThreadPoolExecutor | None:
    """None: in the manager's own thread."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix=name) if num_threads > 0 else None
