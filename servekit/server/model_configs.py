"""Checks of a ModelConfigList, in TF Serving's order and words. Pure; `configs` are ModelConfig messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from servekit.errors import Code, StatusError
from servekit.server.source import MonitoredServable, version_policy

TENSORFLOW = "tensorflow"
_MODEL_TYPE_TENSORFLOW = 1

_URI = re.compile(r"[a-zA-Z][0-9a-zA-Z.]+://")
"""As TensorFlow's `io::ParseURI` knows one: a scheme of two characters at least, without `+` and `-`."""


def check_names_and_paths(configs: Sequence[Any]) -> None:
    """Each name once; base paths absolute, or URIs. Raises StatusError INVALID_ARGUMENT."""
    names: set[str] = set()
    for config in configs:
        if config.name in names:
            raise _invalid(f"Illegal to list model {config.name} multiple times in config list")
        names.add(config.name)
    for config in configs:
        if not config.base_path.startswith("/") and not _URI.match(config.base_path):
            raise _invalid(
                f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
            )


def check_platforms_stay(old: Iterable[Any], new: Iterable[Any]) -> None:
    """A model keeps its platform for as long as it is configured. Raises StatusError INVALID_ARGUMENT."""
    platforms = {config.name: platform(config) for config in old}
    for config in new:
        if config.name in platforms and platform(config) != platforms[config.name]:
            raise _invalid(
                f"Illegal to change a model's platform. For model {config.name} platform was "
                f"{platforms[config.name]} and new platform requested is {platform(config)}"
            )


def check_platforms_known(configs: Iterable[Any]) -> None:
    """Only `tensorflow` is served. Raises StatusError INVALID_ARGUMENT."""
    for config in configs:
        if platform(config) != TENSORFLOW:
            raise _invalid(f"Model {config.name} requests unsupported platform {platform(config)}")


def check_no_logging(configs: Iterable[Any]) -> None:
    """Request logs need a sink that tensorflow_model_server does not have. Raises StatusError INVALID_ARGUMENT."""
    if any(config.HasField("logging_config") for config in configs):
        raise _invalid("No request-logger-creator provided.")


def platform(config: Any) -> str:
    """`model_platform`, or what the deprecated `model_type` means. Raises StatusError when both or neither is set."""
    if config.model_type and config.model_platform:
        raise _invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
            f"model name is {config.name}"
        )
    if config.model_type not in (0, _MODEL_TYPE_TENSORFLOW):
        raise _invalid(f"ModelServerConfig::model_type choice {config.model_type} not supported.")
    name = TENSORFLOW if config.model_type else str(config.model_platform)
    if not name:
        raise _invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {config.name}"
        )
    return name


def monitored(configs: Iterable[Any]) -> list[MonitoredServable]:
    """What the file-system source should watch."""
    return [MonitoredServable(c.name, c.base_path, version_policy(c.model_version_policy)) for c in configs]


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
