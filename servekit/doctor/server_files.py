"""Files that the model server's flags name: what it would make of them. Part of check `settings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from servekit.doctor.finding import Finding, error, listed
from servekit.protos import messages
from servekit.server.options import Options

MESSAGES = {
    "model_config_file": messages.ModelServerConfig,
    "batching_parameters_file": messages.BatchingParameters,
    "monitoring_config_file": messages.MonitoringConfig,
    "ssl_config_file": messages.SSLConfig,
}
"""Message of each file, by its flag."""


def judge(place: str, options: Options, files: Mapping[str, str | None]) -> Iterator[Finding]:
    """`files`: the text behind each flag of MESSAGES that is given, None where there is none."""
    for flag, text in files.items():
        path = getattr(options, flag)
        fate = _FATE[flag]
        if text is None:
            yield error(
                "settings.file-missing",
                place,
                f"--{flag}={path} is missing or cannot be read: {fate}",
                "servekit render",
            )
            continue
        try:
            message = text_format.Parse(text, MESSAGES[flag]())
        except text_format.ParseError as mistake:
            yield error("settings.file-broken", place, f"--{flag}={path}: {mistake}: {fate}", "servekit render")
            continue
        if flag == "batching_parameters_file":
            yield from _batching(place, message)
        if flag == "model_config_file":
            yield from _models(place, message)


_FATE = {
    "model_config_file": "the server does not start with it, and a running one keeps the configuration before it",
    "batching_parameters_file": "the server does not start",
    "monitoring_config_file": "gRPC serves, REST never opens, and the process does not end",
    "ssl_config_file": "the server aborts",
}


def _batching(place: str, message: Any) -> Iterator[Finding]:
    place = f"{place}: batching"
    maximum = message.max_batch_size.value if message.HasField("max_batch_size") else 1000
    execution = message.max_execution_batch_size.value
    if message.HasField("max_batch_size") and maximum <= 0:
        yield error(
            "settings.batch-size-zero", place, "max_batch_size is 0: TF Serving crashes at start", "servekit render"
        )
    if execution > maximum:
        yield error(
            "settings.execution-size",
            place,
            f"max_execution_batch_size {execution} is over max_batch_size {maximum}: TF Serving crashes at start",
            "servekit render",
        )
    sizes = list(message.allowed_batch_sizes)
    if sizes and (sizes[-1] != maximum or sizes != sorted(set(sizes))):
        yield error(
            "settings.allowed-sizes",
            place,
            f"allowed_batch_sizes {sizes} have to grow and end in {maximum}: no model loads",
            "allowed_batch_sizes: auto in serving.yaml, then servekit render",
        )


def _models(place: str, message: Any) -> Iterator[Finding]:
    if message.HasField("custom_model_config"):
        yield error(
            "settings.custom-model-config",
            place,
            "models.config has a custom_model_config: the server aborts",
            "servekit render",
        )
    configs: Sequence[Any] = message.model_config_list.config
    names = [config.name for config in configs]
    logged = [config.name for config in configs if config.HasField("logging_config")]
    if logged:
        yield error(
            "settings.logging-config",
            place,
            f"logging_config of {listed(logged)}: the server refuses the file",
            "servekit render",
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield error(
            "settings.model-twice",
            place,
            f"models.config has {listed(twice)} twice: the server refuses the file",
            "servekit render",
        )
