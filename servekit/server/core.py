"""ServerCore: configuration in, handles of loaded versions and their states out. Knows no protocol."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from servekit.errors import Code, StatusError
from servekit.model_spec import ModelSpec
from servekit.monitoring.samples import Sample, VersionState, model_samples
from servekit.server import model_configs
from servekit.server.labels import LabelMap, next_label_map
from servekit.server.manager import AspiredVersionsManager
from servekit.server.options import Options, schedulable_cpus
from servekit.server.servable import Loader, ServableId, ServableState, State
from servekit.server.serving_map import ServableHandle
from servekit.server.source import FileSystemStoragePathSource
from servekit.server.states import EventBus, StateMonitor

logger = logging.getLogger(__name__)


class ServerCore:
    """Source, manager, label map and states of one server. All methods may be called from many threads."""

    def __init__(
        self, options: Options, loader: Loader, *, before_first_load: Callable[[], object] = lambda: None
    ) -> None:
        """`before_first_load` is waited for when a configuration with models has passed its checks."""
        self._options = options
        self._before_first_load = before_first_load
        self._events = EventBus()
        self._monitor = self._events.follow()
        self._manager = AspiredVersionsManager(
            loader,
            self._events,
            num_load_threads=options.num_load_threads,
            num_unload_threads=options.num_unload_threads,
            max_num_load_retries=options.max_num_load_retries,
            load_retry_interval_s=options.load_retry_interval_micros / 1e6,
        )
        self._source = FileSystemStoragePathSource(
            self._manager.set_aspired_versions, options.file_system_poll_wait_seconds
        )
        self._reloading = threading.Lock()
        self._config: Any = None
        self._added: Any = None
        self._labels: LabelMap | None = None
        self._manager.start()

    def handle(self, spec: ModelSpec) -> ServableHandle:
        """Keeps the version that `spec` means loaded while inside `with`; `.id`, `.servable`.

        Raises StatusError: NOT_FOUND when it is not available, INVALID_ARGUMENT for an unknown label or no name.
        """
        name, version = self.resolve(spec)
        return self._manager.serving.acquire(name, version)

    def resolve(self, spec: ModelSpec) -> tuple[str, int | None]:
        """Model and version that `spec` asks for; None is the highest available one."""
        if not spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if spec.version_label is None:
            return spec.name, spec.version
        if self._labels is None:
            raise StatusError(Code.UNAVAILABLE, f"Model labels does not init yet.{spec.version_label}")
        version = self._labels.get(spec.name, {}).get(spec.version_label)
        if version is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}")
        return spec.name, version

    def states(self, name: str, version: int | None = None) -> list[ServableState]:
        """All versions of a model that were ever managed, highest first, or only `version`.

        Raises StatusError NOT_FOUND when there are none.
        """
        if version is not None:
            state = self._monitor.state(ServableId(name, version))
            if state is None:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            return [state]
        states = self._monitor.versions(name)
        if not states:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return states

    def served(self) -> Iterator[Sample]:
        """For the metrics page: each configured model with the states of its versions and its labels."""
        config, labels = self._added or self._config, self._labels or {}
        names = [model.name for model in config.model_config_list.config] if config is not None else []
        for name in names:
            versions = [
                VersionState(one.id.version, one.state.name, one.error.code if one.error else Code.OK)
                for one in self._monitor.versions(name)
            ]
            yield from model_samples(name, versions, labels.get(name, {}))

    def reload(self, config: Any, *, after_failure: bool = False) -> None:
        """Takes a whole new ModelServerConfig; returns when the models that are new in it are available.

        Raises StatusError. The order of the steps is TF Serving's and can be seen from outside: a label that may not
        move stops everything after it (versions and models too), an unknown platform comes to light when the labels
        have already moved, a new model that fails to load stays configured. One reload at a time; a new model without
        a version to load makes it wait for ever.
        """
        with self._reloading:
            if self._config is not None and config.WhichOneof("config") != "model_config_list":
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                    "another.",
                )
            if config.WhichOneof("config") is None:
                logger.info("Taking no action for empty config.")
                return
            if config.WhichOneof("config") != "model_config_list":
                raise StatusError(Code.INVALID_ARGUMENT, "ModelServer does not yet support custom model config.")
            models = list(config.model_config_list.config)
            model_configs.check_names_and_paths(models)
            if self._config is not None:
                model_configs.check_platforms_stay(self._config.model_config_list.config, models)
            self._config = config
            self._labels = next_label_map(
                models,
                self._labels or {},
                self._is_available,
                allow_unavailable=self._options.allow_version_labels_for_unavailable_models,
            )
            # TF Serving logs these lines at every poll of an unchanged file too: 26 MB a day that say nothing. After a
            # failure they say that it is over.
            level = logging.DEBUG if config == self._added and not after_failure else logging.INFO
            logger.log(level, "Adding/updating models.")
            self._add_models(models, level)
            logger.log(level, "Finished adding/updating models")
            self._added = config
            model_configs.check_no_logging(models)

    def stop(self) -> None:
        """Ends the source, the manager and every wait; handles that are out stay good."""
        self._source.stop()
        self._manager.stop()
        self._events.stop()

    def _add_models(self, models: list[Any], level: int) -> None:
        for model in models:
            logger.log(level, " (Re-)adding model: %s", model.name)
        model_configs.check_platforms_known(models)
        servables = model_configs.monitored(models)
        if self._source.started:
            # A monitor that knows nothing yet: a version that ended long ago must not count as this reload's result.
            monitor = self._events.follow()
            new = {s.name for s in servables} - self._source.names
            self._source.update(servables)
            self._wait(monitor, new, "model(s)")
            return
        self._before_first_load()
        self._source.update(servables)
        self._manager.load_fast(4 * schedulable_cpus())
        self._source.start()
        try:
            self._wait(self._monitor, {s.name for s in servables}, "servable(s)")
        finally:
            self._manager.load_normally()

    def _wait(self, monitor: StateMonitor, names: Iterable[str], noun: str) -> None:
        reached = monitor.wait_until_available(names)
        if reached is None:
            raise StatusError(Code.CANCELLED, "The server is stopping.")
        failed = [state for _, state in sorted(reached.items()) if state.state is not State.AVAILABLE]
        if failed:
            details = "".join(
                f"{{{state.id}{f' due to error: {state.error}' if state.error else ''}}}, " for state in failed
            )
            raise StatusError(Code.UNKNOWN, f"{len(failed)} {noun} did not become available: {{{details}}}")

    def _is_available(self, name: str, version: int) -> bool:
        state = self._monitor.state(ServableId(name, version))
        return state is not None and state.state is State.AVAILABLE
