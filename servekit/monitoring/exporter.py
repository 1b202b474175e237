"""What a tensorflow_model_server does not tell Prometheus: states of versions, meaning of labels, memory.

It is asked at each scrape, over gRPC: TF Serving counts REST's status calls as requests, gRPC's nowhere.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from servekit.client import Client
from servekit.engine.health import Configured, configured_models
from servekit.errors import Code, ServekitError, StatusError, Unreachable
from servekit.model_spec import ModelSpec
from servekit.monitoring.process import PROC, copied_within, find_process, process_samples, process_usage
from servekit.monitoring.samples import FAMILIES, Sample, VersionState, kind, model_samples

logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

LABEL_CONFIGURED = "servekit_label_configured"
REACHABLE = "servekit_server_reachable"
_OWN = {LABEL_CONFIGURED: ("model", "label", "version"), REACHABLE: ()}
PROGRAM = "tensorflow_model_server"
COPIES_KEEP_S = 60.0
"""Older copies of /proc are of a server that has ended."""


class ServerCollector(Collector):
    """For a prometheus-client registry. `client` speaks gRPC and has a timeout shorter than Prometheus'."""

    def __init__(
        self,
        client: Client,
        models_config: Path,
        *,
        memory_limit_bytes: int | None,
        pid: Callable[[], int | None] | None = None,
        proc: Path = PROC,
    ) -> None:
        """Raises EngineError when models.config cannot be read; one that breaks later leaves the last good one.

        `proc` is Linux' /proc, or a folder with copies of its files that somebody who sees the server writes.
        """
        self._client = client
        self._models_config = models_config
        self._memory_limit_bytes = memory_limit_bytes
        self._proc = proc
        self._pid = pid or (lambda: find_process(PROGRAM, proc))
        self._configured: Sequence[Configured] = configured_models(models_config)
        self._said = ""
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """Empty: a registry asks the server when it is scraped, not when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            samples = [*self._server(), *self._process()]
        for family, labels in {**FAMILIES, **_OWN}.items():
            of_kind = CounterMetricFamily if kind(family) == "counter" else GaugeMetricFamily
            metric = of_kind(family, family, labels=labels)
            for sample in samples:
                if sample.family == family:
                    metric.add_metric(sample.labels, sample.value)
            yield metric

    def _server(self) -> Iterator[Sample]:
        trouble = ""
        try:
            self._configured = configured_models(self._models_config)
        except ServekitError as error:
            trouble = error.message
        reachable = True
        for model in self._configured:
            for label, version in model.labels.items():
                yield Sample(LABEL_CONFIGURED, (model.name, label, str(version)))
            try:
                yield from observed_samples(self._client, model) if reachable else model_samples(model.name, (), {})
            except ServekitError as error:  # the others need not be asked: each would cost a timeout
                reachable, trouble = False, error.message
                yield from model_samples(model.name, (), {})
        yield Sample(REACHABLE, (), float(reachable))
        if trouble != self._said:
            logger.warning("%s", trouble or "all can be read again")
            self._said = trouble

    def _process(self) -> Iterator[Sample]:
        pid = self._pid()
        known = pid is not None and (self._proc == PROC or copied_within(COPIES_KEEP_S, pid, self._proc))
        return process_samples(process_usage(pid, self._proc) if known and pid else None, self._memory_limit_bytes)


def observed_samples(client: Client, model: Configured) -> list[Sample]:
    """Raises StatusError when the server does not answer in time; a refusal is an answer."""
    status = _answer(lambda: client.status(model.name))
    versions = [VersionState(one.version, one.state, one.code) for one in status.versions] if status else []
    meant = {label: _answer(functools.partial(_version, client, model.name, label)) for label in model.labels}
    return list(
        model_samples(model.name, versions, {label: version for label, version in meant.items() if version is not None})
    )


def _version(client: Client, model: str, label: str) -> int | None:
    return client.metadata(ModelSpec(model, version_label=label)).version


def _answer(ask: Callable[[], _Answer]) -> _Answer | None:
    """None: the server refused, as it does for what it does not serve."""
    try:
        return ask()
    except StatusError as error:
        if isinstance(error, Unreachable) or error.code is Code.DEADLINE_EXCEEDED:
            raise
        return None
