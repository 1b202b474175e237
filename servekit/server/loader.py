"""The loader: a version's folder to a Servable that can answer at once. Session, batching, warm-up, in this order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from servekit.protos import messages
from servekit.server import prediction_service, session
from servekit.server.batching import BatchScheduler
from servekit.server.batching_session import BatchingServable
from servekit.server.metrics import Metrics
from servekit.server.options import Options
from servekit.server.servable import Servable, ServableId
from servekit.server.session import DEFAULT_TAGS
from servekit.server.session_config import batching_parameters, session_config
from servekit.server.text_proto import read_message
from servekit.server.warmup import warm_up

logger = logging.getLogger(__name__)

BATCHING_PARAMETERS_FILE = "batching_params.pbtxt"
"""In a version's folder, read with --enable_per_model_batching_parameters; without it the version is not batched."""


class SavedModelLoader:
    """Reads the flags' files once. Raises StatusError for a file that is wrong."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._batching_parameters = batching_parameters(options)
        self._session_config = session_config(options)
        self._scheduler = _scheduler(self._batching_parameters, metrics)

    def load(self, id: ServableId, path: Path) -> Servable:
        with self._metrics.loading(str(path)) as tell_stage:
            servable: Servable = session.load_saved_model(
                path,
                tags=self._options.saved_model_tags.split(",") if self._options.saved_model_tags else DEFAULT_TAGS,
                session_config=self._session_config,
                graphs=self._metrics.graphs,
                tell_stage=tell_stage,
            )
        try:
            servable = self._batched(servable, id, path)
            self._warm_up(servable, path)
        except BaseException:
            servable.close()
            raise
        return servable

    def _batched(self, servable: Servable, id: ServableId, path: Path) -> Servable:
        parameters = self._batching_parameters
        if parameters is not None and self._options.enable_per_model_batching_parameters:
            own = path / BATCHING_PARAMETERS_FILE
            parameters = read_message(str(own), messages.BatchingParameters) if own.is_file() else None
        if parameters is None or self._scheduler is None:
            return servable
        logger.info("Wrapping session to perform batch processing")
        return BatchingServable(servable, parameters, self._scheduler, self._metrics, id)

    def _warm_up(self, servable: Servable, path: Path) -> None:
        if not self._options.enable_model_warmup:
            return
        warm_up(
            path,
            session.read_records,
            lambda log: prediction_service.run_log(servable, log, self._metrics),
            iterations=self._options.num_request_iterations_for_warmup,
            ended=lambda status, seconds: self._metrics.record_warmup(str(path), status, seconds),
        )


def _scheduler(parameters: Any, metrics: Metrics) -> BatchScheduler | None:
    """One for all models, with the threads that the flags' file asks for; None without batching."""
    if parameters is None:
        return None
    return BatchScheduler(
        metrics,
        num_batch_threads=parameters.num_batch_threads.value if parameters.HasField("num_batch_threads") else None,
        thread_pool_name=parameters.thread_pool_name.value,
    )
