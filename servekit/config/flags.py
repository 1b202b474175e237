"""A `Serving` to the flags of tensorflow_model_server, the same for container, native binary and embedded server."""

from __future__ import annotations

from pathlib import PurePath

from servekit.config.rendered_files import BATCHING, MODELS, MONITORING
from servekit.config.serving import Serving

GRPC_CALLS = 1024
"""Calls at once, as many as the gateway lets through by default. TF Serving's own limit is 4 threads a core, which are
fewer than one batch needs rows for, and what comes beyond is refused: on two cores 8 clients that ask in a row get
RESOURCE_EXHAUSTED for 94 % of their calls. A thread is there only while a call is."""


def server_flags(serving: Serving, *, rendered: PurePath, port: int, rest_api_port: int) -> list[str]:
    """`--flag=value` strings in a fixed order; `rendered` is where the server finds the rendered files."""
    server = serving.server
    flags: dict[str, int | float | str | bool | PurePath] = {
        "port": port,
        "rest_api_port": rest_api_port,
        "rest_api_timeout_in_ms": server.rest_api_timeout_in_ms,
        "model_config_file": rendered / MODELS,
        "model_config_file_poll_wait_seconds": server.poll_seconds,
        "file_system_poll_wait_seconds": server.poll_seconds,
        # Without it, labels in the file that the server starts with end it: no version is available yet.
        "allow_version_labels_for_unavailable_models": True,
        "monitoring_config_file": rendered / MONITORING,
        "grpc_max_threads": GRPC_CALLS,
        "num_load_threads": server.num_load_threads,
        "num_unload_threads": server.num_unload_threads,
        "max_num_load_retries": server.max_num_load_retries,
        "load_retry_interval_micros": server.load_retry_interval_micros,
        "enable_profiler": server.enable_profiler,
    }
    if serving.batching.enabled:  # the file alone, without the switch, ends the server
        flags |= {"enable_batching": True, "batching_parameters_file": rendered / BATCHING}
    intra, inter = server.pools()  # TF Serving reads the one only together with the other
    if intra or inter:
        flags |= {"tensorflow_intra_op_parallelism": intra, "tensorflow_inter_op_parallelism": inter}
    if server.cpus != "auto":
        flags["rest_api_num_threads"] = 4 * server.cpus  # TF Serving's own rule; with 1, REST never answers
    flags |= server.flags
    return [f"--{name}={_text(value)}" for name, value in flags.items()]


def _text(value: int | float | str | bool | PurePath) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
