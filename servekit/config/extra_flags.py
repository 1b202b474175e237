"""`server.flags`: flags of tensorflow_model_server that no key of serving.yaml stands for.

TF Serving prints its usage at an unknown flag and goes on without it, so a misspelt one has to be found here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from servekit.config.section import Finding, shown


@dataclass(frozen=True, slots=True)
class _Kind:
    expected: str
    types: tuple[type, ...]
    json_type: str
    minimum: float = 0
    maximum: float = 2**31 - 1

    def accepts(self, value: Any) -> bool:
        if type(value) not in self.types:
            return False
        return self.json_type in {"boolean", "string"} or self.minimum <= value <= self.maximum


_BOOL = _Kind("true or false", (bool,), "boolean")
_TEXT = _Kind("text", (str,), "string")
_COUNT = _Kind("a whole number from 0", (int,), "integer")
_POSITIVE = _Kind("a whole number from 1", (int,), "integer", minimum=1)

EXTRA_FLAGS: dict[str, _Kind] = {
    "enable_grpc_healthcheck_service": _BOOL,
    "enable_model_warmup": _BOOL,
    "enable_signature_method_name_check": _BOOL,
    "flush_filesystem_caches": _BOOL,
    "grpc_channel_arguments": _TEXT,
    "grpc_max_threads": _POSITIVE,
    "grpc_socket_path": _TEXT,
    "mixed_precision": _TEXT,
    "num_request_iterations_for_warmup": _COUNT,
    "num_tflite_interpreters_per_pool": _POSITIVE,
    "num_tflite_pools": _POSITIVE,
    "per_process_gpu_memory_fraction": _Kind("a number from 0 to 1", (int, float), "number", maximum=1),
    "prefer_tflite_model": _BOOL,
    "remove_unused_fields_from_bundle_metagraph": _BOOL,
    "rest_api_enable_cors_support": _BOOL,
    "rest_api_num_threads": _Kind("a whole number from 2 (with 1, REST never answers)", (int,), "integer", minimum=2),
    "saved_model_tags": _TEXT,
    "skip_initialize_tpu": _BOOL,
    "xla_cpu_compilation_enabled": _BOOL,
    "xla_gpu_compilation_enabled": _BOOL,
}

FLAGS_SCHEMA: dict[str, Any] = {
    "additionalProperties": False,
    "properties": {name: {"type": kind.json_type} for name, kind in EXTRA_FLAGS.items()},
}

_KEYS = {
    "batching_parameters_file": "batching",
    "enable_batching": "batching.enabled",
    "enable_profiler": "server.enable_profiler",
    "file_system_poll_wait_seconds": "server.poll_seconds",
    "load_retry_interval_micros": "server.load_retry_interval_micros",
    "max_num_load_retries": "server.max_num_load_retries",
    "model_base_path": "models",
    "model_config_file": "models",
    "model_config_file_poll_wait_seconds": "server.poll_seconds",
    "model_name": "models",
    "monitoring_config_file": "monitoring",
    "num_load_threads": "server.num_load_threads",
    "num_unload_threads": "server.num_unload_threads",
    "port": "server.port",
    "rest_api_port": "server.rest_api_port",
    "rest_api_timeout_in_ms": "server.rest_api_timeout_in_ms",
    "tensorflow_inter_op_parallelism": "server.tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism": "server.tensorflow_intra_op_parallelism",
    "tensorflow_session_parallelism": "server.tensorflow_intra_op_parallelism",
}

_REFUSED = {
    "allow_version_labels_for_unavailable_models": "is always on: without it a server that starts with labels ends",
    "enable_per_model_batching_parameters": "stops batching for every model without a batching_params.pbtxt",
    "enable_serialization_as_tensor_content": "makes TF Serving crash at the first REST prediction",
    "platform_config_file": "takes the place of batching and of the session's settings",
    "ssl_config_file": "is not supported: TF Serving aborts on a bad file, and REST stays open without TLS",
    "tensorflow_session_config_file": "is not supported: its file would have to lie on the server's side",
    "thread_pool_factory_config_file": "is not supported: its file would have to lie on the server's side",
    "use_alts_credentials": "works on Google Cloud only",
    "version": "makes the server print its version and end",
}

ALL_FLAGS = frozenset({*EXTRA_FLAGS, *_KEYS, *_REFUSED})


def extra_flag_finding(name: str, value: Any) -> Finding | None:
    """What is wrong with `server.flags.NAME: VALUE`, if anything."""
    if (kind := EXTRA_FLAGS.get(name)) is not None:
        if kind.accepts(value):
            return None
        return Finding((name,), f"should be {kind.expected}, is {shown(value)}")
    if name in _KEYS:
        return Finding((name,), "has its own key in this file", f"set {_KEYS[name]}")
    if name in _REFUSED:
        return Finding((name,), _REFUSED[name])
    near = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), [*EXTRA_FLAGS, *_KEYS], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"flags that can stand here: {', '.join(EXTRA_FLAGS)}"
    return Finding((name,), "is no flag of tensorflow_model_server", hint)
