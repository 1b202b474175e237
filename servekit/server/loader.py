"""The loader: a version's folder to a Servable that can answer at once. Session, batching, warm-up, in this order."""

from __future__ import annotations

from pathlib import Path

from servekit.errors import Code
from servekit.server import prediction_service, session
from servekit.server.metrics import Metrics
from servekit.server.options import Options
from servekit.server.servable import Servable, ServableId
from servekit.server.session_config import batching_parameters, session_config
from servekit.server.warmup import warm_up


class SavedModelLoader:
    """Reads the flags' files once. Raises StatusError for a file that is wrong."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._batching_parameters = batching_parameters(options)
        self._session_config = session_config(options)

    def load(self, id: ServableId, path: Path) -> Servable:
        with self._metrics.loading(str(path)):
            servable: Servable = session.load_saved_model(
                path, tags=self._options.saved_model_tags.split(","), session_config=self._session_config
            )
        try:
            self._warm_up(servable, path)
        except BaseException:
            servable.close()
            raise
        return servable

    def _warm_up(self, servable: Servable, path: Path) -> None:
        if not self._options.enable_model_warmup:
            return
        seconds = warm_up(
            path,
            session.read_records,
            lambda log: prediction_service.run_log(servable, log),
            iterations=self._options.num_request_iterations_for_warmup,
        )
        if seconds is not None:
            self._metrics.record_warmup(str(path), Code.OK, seconds)
