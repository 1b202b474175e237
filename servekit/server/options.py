"""The flags of tensorflow_model_server (2.19.1): names, types, defaults and grammar.

The grammar is TensorFlow's (`xla/tsl/util/command_line_flags.cc`): only `--name=value` counts; a bool is `true`,
`false`, `1` or `0`, in any case, or stands alone; the last of several wins; what is not understood is reported and
ignored; a value that does not fit ends the server with 255. `--name value`, `-name=value`, `--enable_batchingg` and
words are therefore "unknown arguments", value and all.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

INT64_MAX = 2**63 - 1


def schedulable_cpus() -> int:
    """CPUs that this process may use; TF Serving's thread defaults are multiples of it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flag(kind: str, default: Any, usage: str, *, effect: bool = True) -> Any:
    metadata = {"kind": kind, "usage": usage, "effect": effect}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Options:
    """One field a flag, under the flag's own name, with its default."""

    port: int = _flag("int32", 8500, "TCP port for gRPC; 0 opens none and needs --grpc_socket_path")
    grpc_socket_path: str = _flag("string", "", "also listen for gRPC on this unix socket")
    rest_api_port: int = _flag("int32", 0, "TCP port for HTTP/REST; 0 opens none; must differ from --port")
    rest_api_num_threads: int = _flag("int32", lambda: 4 * schedulable_cpus(), "threads for HTTP/REST")
    rest_api_timeout_in_ms: int = _flag("int32", 30000, "timeout of an HTTP/REST request; 0 or less is none")
    rest_api_enable_cors_support: bool = _flag("bool", False, "CORS headers on HTTP/REST answers")
    enable_batching: bool = _flag("bool", False, "batch requests together")
    allow_version_labels_for_unavailable_models: bool = _flag(
        "bool", False, "a new label may point to a version that is not available yet"
    )
    batching_parameters_file: str = _flag("string", "", "text BatchingParameters; needs --enable_batching")
    enable_per_model_batching_parameters: bool = _flag(
        "bool", False, "read batching_params.pbtxt of each version; versions without it are not batched"
    )
    model_config_file: str = _flag(
        "string", "", "text ModelServerConfig; --model_name and --model_base_path are ignored"
    )
    model_config_file_poll_wait_seconds: int = _flag("int32", 0, "re-read --model_config_file this often; 0 never")
    model_name: str = _flag("string", "default", "name of the model at --model_base_path")
    model_base_path: str = _flag("string", "", "folder whose sub-folders are versions")
    num_load_threads: int = _flag("int32", 0, "threads that load versions; 0 loads in the manager's thread")
    num_unload_threads: int = _flag("int32", 0, "threads that unload versions; 0 unloads in the manager's thread")
    max_num_load_retries: int = _flag("int32", 5, "loading is tried again this often after a failure")
    load_retry_interval_micros: int = _flag("int64", 60 * 1000 * 1000, "microseconds between two tries")
    file_system_poll_wait_seconds: int = _flag(
        "int32", 1, "look for new versions this often; 0 looks once, a negative number never"
    )
    flush_filesystem_caches: bool = _flag("bool", True, "flush file system caches after loading", effect=False)
    tensorflow_session_parallelism: int = _flag("int64", 0, "threads of a session; 0 lets TensorFlow choose")
    tensorflow_session_config_file: str = _flag("string", "", "text ConfigProto for the sessions")
    tensorflow_intra_op_parallelism: int = _flag("int64", 0, "threads inside one op; 0 lets TensorFlow choose")
    tensorflow_inter_op_parallelism: int = _flag("int64", 0, "ops at the same time; 0 lets TensorFlow choose")
    use_alts_credentials: bool = _flag("bool", False, "Google ALTS for gRPC", effect=False)
    ssl_config_file: str = _flag("string", "", "text SSLConfig: TLS for gRPC")
    platform_config_file: str = _flag("string", "", "text PlatformConfigMap", effect=False)
    per_process_gpu_memory_fraction: float = _flag("float", 0.0, "share of GPU memory; 0 lets TensorFlow choose")
    saved_model_tags: str = _flag("string", "serve", "tags of the meta graph to load, separated by commas")
    grpc_channel_arguments: str = _flag("string", "", "key=value,... handed to the gRPC server")
    grpc_max_threads: int = _flag("int32", lambda: 4 * schedulable_cpus(), "threads for gRPC")
    enable_model_warmup: bool = _flag("bool", True, "replay assets.extra/tf_serving_warmup_requests while loading")
    num_request_iterations_for_warmup: int = _flag("int32", 0, "replay each warmup record this often; 0 means once")
    version: bool = _flag("bool", False, "print the version and end")
    monitoring_config_file: str = _flag("string", "", "text MonitoringConfig: the metrics page on the HTTP/REST port")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        "bool", True, "drop the graph's description after loading to save memory", effect=False
    )
    prefer_tflite_model: bool = _flag("bool", False, "serve a model.tflite instead", effect=False)
    num_tflite_pools: int = _flag("int32", schedulable_cpus, "TF Lite interpreter pools", effect=False)
    num_tflite_interpreters_per_pool: int = _flag("int32", 1, "TF Lite interpreters in a pool", effect=False)
    enable_signature_method_name_check: bool = _flag("bool", False, "check method_name in predict requests too")
    xla_cpu_compilation_enabled: bool = _flag("bool", False, "XLA on the CPU", effect=False)
    xla_gpu_compilation_enabled: bool = _flag("bool", False, "XLA on the GPU", effect=False)
    enable_profiler: bool = _flag("bool", True, "TensorFlow profiler service on the gRPC port", effect=False)
    thread_pool_factory_config_file: str = _flag("string", "", "text ThreadPoolConfig", effect=False)
    mixed_precision: str = _flag("string", "", "bfloat16 on TPU and CPU", effect=False)
    skip_initialize_tpu: bool = _flag("bool", False, "do not initialise TPUs", effect=False)
    enable_grpc_healthcheck_service: bool = _flag("bool", False, "grpc.health.v1.Health on the gRPC port")
    enable_serialization_as_tensor_content: bool = _flag("bool", False, "Predict answers carry tensor_content")


@dataclass(frozen=True, slots=True)
class Parsed:
    """`unknown`: what was not understood, in order; `errors`: values that do not fit (the server must not start)."""

    options: Options
    unknown: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def wants_help(self) -> bool:
        return bool(self.unknown) and self.unknown[0] == "--help"


def parse(arguments: Sequence[str]) -> Parsed:
    """Reads the arguments after the program's name."""
    values: dict[str, Any] = {}
    unknown: list[str] = []
    errors: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            unknown.extend(arguments[index:])
            break
        name, text = _match(argument)
        if name is None:
            unknown.append(argument)
            continue
        try:
            values[name] = _READERS[_KINDS[name]](text)
        except ValueError:
            errors.append(f"Couldn't interpret value {text} for flag {name}.")
    return Parsed(Options(**values), tuple(unknown), tuple(errors))


def without_effect(options: Options) -> list[str]:
    """Names of the flags that were changed from their default but change nothing in this server."""
    return [
        field.name
        for field in dataclasses.fields(options)
        if not field.metadata["effect"] and getattr(options, field.name) != _default(field)
    ]


def usage(command: str) -> str:
    """The text that an unknown argument, a wrong value and `--help` get; defaults as on this machine."""
    lines = [f"usage: {command}", "Flags:"]
    for field in dataclasses.fields(Options):
        kind = field.metadata["kind"]
        default = _default(field)
        shown = {"bool": str(default).lower(), "string": f'"{default}"'}.get(kind, str(default))
        note = "" if field.metadata["effect"] else " (accepted, without effect here)"
        lines.append(f"\t{f'--{field.name}={shown}':<33}\t{kind}\t{field.metadata['usage']}{note}")
    return "\n".join(lines) + "\n"


def _match(argument: str) -> tuple[str | None, str]:
    """(flag, text of its value); a bool that stands alone is `true`."""
    if not argument.startswith("--"):
        return None, ""
    name, equals, text = argument[2:].partition("=")
    kind = _KINDS.get(name)
    if kind is None or not (equals or kind == "bool"):
        return None, ""
    return name, text if equals else "true"


def _read_integer(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]+", text):
            raise ValueError(text)
        value = max(-INT64_MAX - 1, min(INT64_MAX, int(text)))
        return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)  # sscanf("%d") wraps, it does not refuse

    return read


def _read_float(text: str) -> float:
    if text != text.rstrip() or "_" in text:
        raise ValueError(text)
    return float.fromhex(text) if "x" in text.lower() else float(text)


def _read_bool(text: str) -> bool:
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if value is None:
        raise ValueError(text)
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


_KINDS: dict[str, str] = {field.name: field.metadata["kind"] for field in dataclasses.fields(Options)}
_READERS: dict[str, Callable[[str], Any]] = {
    "int32": _read_integer(32),
    "int64": _read_integer(64),
    "float": _read_float,
    "string": str,
    "bool": _read_bool,
}
