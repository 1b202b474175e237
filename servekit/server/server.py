"""One server put together: files, core, edges, in the order of tensorflow_model_server."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import Any

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server import session
from servekit.server.address import bind_address
from servekit.server.config_poller import ConfigFilePoller
from servekit.server.core import ServerCore
from servekit.server.grpc_edge import GrpcServer
from servekit.server.loader import SavedModelLoader
from servekit.server.metrics import Metrics
from servekit.server.options import Options
from servekit.server.rest import RestServer
from servekit.server.text_proto import read_message

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005


class Server:
    """start() returns when it serves or raises StatusError; stop() may come at any time, from another thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._stopping = False
        self._core: ServerCore | None = None
        self._poller: ConfigFilePoller | None = None
        self._edges: list[Any] = []

    def start(self) -> None:
        """Loads the configured models and then, only then, opens the ports."""
        # It takes seconds; meanwhile the configuration is read, and a wrong one ends the server without waiting.
        session.import_only_what_is_needed()
        threading.Thread(target=_import_early, name="import_tensorflow", daemon=True).start()
        # A thread that comes back from TensorFlow waits at most this long for one that computes in Python (the default
        # is 5 ms): at 16 clients it halves the slowest percent.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        options = self._options
        check_ports(options)
        config = model_server_config(options)
        check_files(options)
        metrics = Metrics()
        core = ServerCore(options, SavedModelLoader(options, metrics), before_first_load=session.tensorflow)
        with self._lock:
            self._core = core
        core.reload(config)
        session.tensorflow()
        with self._lock:
            if self._stopping:
                return
            if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
                self._poller = ConfigFilePoller(
                    core, options.model_config_file, options.model_config_file_poll_wait_seconds
                )
                self._poller.start()
            self._open_ports(core, metrics)

    def stop(self, grace_s: float) -> None:
        """Refuses new requests, gives running ones `grace_s` seconds, ends everything else."""
        with self._lock:
            self._stopping = True
            edges, self._edges = self._edges, []
        if self._poller is not None:
            self._poller.stop()
        stopping = [threading.Thread(target=edge.stop, args=(grace_s,), daemon=True) for edge in edges]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join(grace_s + 1.0)
        if self._core is not None:
            self._core.stop()

    def _open_ports(self, core: ServerCore, metrics: Metrics) -> None:
        options = self._options
        if options.port != 0 or options.grpc_socket_path:
            self._open(GrpcServer(core, options, metrics))
            logger.info("Running gRPC ModelServer at %s:%d ...", bind_address(), options.port)
            if options.grpc_socket_path:
                logger.info("Running gRPC ModelServer at UNIX socket %s ...", options.grpc_socket_path)
        if options.rest_api_port == 0:
            return
        if options.rest_api_port == options.port:
            logger.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
                "Skipped exporting HTTP/REST API."
            )
            return
        self._open(RestServer(core, options, metrics))
        logger.info("Exporting HTTP/REST API at:%s:%d ...", bind_address(), options.rest_api_port)

    def _open(self, edge: Any) -> None:
        edge.start()
        self._edges.append(edge)


def _import_early() -> None:
    with contextlib.suppress(StatusError):  # whoever needs it next gets the error
        session.tensorflow()


def check_ports(options: Options) -> None:
    """gRPC needs a port or a socket, and one kind of credentials. Raises StatusError."""
    if options.port == 0 and not options.grpc_socket_path:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
        )
    if options.use_alts_credentials and options.ssl_config_file:
        raise StatusError(
            Code.INVALID_ARGUMENT, "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )


def model_server_config(options: Options) -> Any:
    """The ModelServerConfig of --model_config_file, or the one that --model_name and --model_base_path stand for."""
    if options.model_config_file:
        return read_message(options.model_config_file, messages.ModelServerConfig)
    if not options.model_base_path:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Both server_options.model_base_path and server_options.model_config_file are empty!",
        )
    config = messages.ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform="tensorflow"
    )
    logger.info(
        "Building single TensorFlow model file config: model_name: %s model_base_path: %s",
        options.model_name,
        options.model_base_path,
    )
    return config


def check_files(options: Options) -> None:
    """Fails before a model is loaded where tensorflow_model_server hangs or crashes later on a bad file."""
    if options.monitoring_config_file:
        read_message(options.monitoring_config_file, messages.MonitoringConfig)
    if options.ssl_config_file:
        read_message(options.ssl_config_file, messages.SSLConfig)
