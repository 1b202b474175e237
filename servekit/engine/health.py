"""What a running server serves, held against the files that it was given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.client import Client, ModelSpec, ModelStatus
from servekit.errors import Code, EngineError, StatusError, Unreachable


@dataclass(frozen=True, slots=True)
class Configured:
    """A model as in models.config; `versions` are those of a `specific` policy, else empty."""

    name: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Observed:
    """What the server says: its versions, and for each label the version that it means, or the refusal."""

    status: ModelStatus | StatusError
    labels: Mapping[str, int | StatusError]


@dataclass(frozen=True, slots=True)
class ModelHealth:
    configured: Configured
    observed: Observed
    problems: tuple[str, ...]


def configured_models(models_config: Path) -> list[Configured]:
    """Raises EngineError when the file is missing or not parsable."""
    from google.protobuf import text_format

    from servekit.protos import messages

    try:
        config: Any = text_format.Parse(models_config.read_text(), messages.ModelServerConfig())
    except OSError as error:
        raise EngineError(
            f"{models_config}: {error.strerror}", hint="servekit render writes it; servekit up starts a server as well"
        ) from None
    except text_format.ParseError as error:
        raise EngineError(f"{models_config}: {error}", hint="write it again: servekit render") from None
    return [
        Configured(
            entry.name,
            tuple(entry.model_version_policy.specific.versions),
            dict(sorted(entry.version_labels.items(), key=lambda item: item[1])),
        )
        for entry in config.model_config_list.config
    ]


def examine(client: Client, configured: Sequence[Configured]) -> list[ModelHealth]:
    """Raises Unreachable."""
    return [judged(model, observe(client, model)) for model in configured]


def wait_until_as_configured(client: Client, configured: Sequence[Configured], timeout_s: float) -> list[ModelHealth]:
    """The last examination: without problems, or what is still wrong when time is up. Raises Unreachable."""
    deadline = time.monotonic() + timeout_s
    while True:
        models = examine(client, configured)
        if not any(model.problems for model in models) or time.monotonic() > deadline:
            return models
        time.sleep(0.2)


def observe(client: Client, model: Configured) -> Observed:
    """Raises Unreachable."""
    try:
        status: ModelStatus | StatusError = client.status(model.name)
    except Unreachable:
        raise
    except StatusError as error:
        status = error
    return Observed(status, {label: _version_of(client, model.name, label) for label in model.labels})


def _version_of(client: Client, model: str, label: str) -> int | StatusError:
    try:
        return client.metadata(ModelSpec(model, version_label=label)).version
    except Unreachable:
        raise
    except StatusError as error:
        return error


def judged(configured: Configured, observed: Observed) -> ModelHealth:
    return ModelHealth(configured, observed, tuple(_problems(configured, observed)))


def _problems(configured: Configured, observed: Observed) -> Iterator[str]:
    name = configured.name
    if isinstance(observed.status, StatusError):
        yield f"{name}: {observed.status}"
        return
    available = observed.status.available()
    if not available:
        yield f"{name}: no version is AVAILABLE"
    states = {one.version: one for one in observed.status.versions}
    for version in configured.versions:
        if version not in states:
            yield f"{name}: version {version} is configured and not known to the server"
        elif states[version].state != "AVAILABLE" and states[version].code is Code.OK:
            yield f"{name}: version {version} is {states[version].state}"
    for version, one in states.items():
        if one.code is not Code.OK and (version in configured.versions or not configured.versions):
            yield f"{name}: version {version} did not load: {one.message}"
    for label, version in configured.labels.items():
        answer = observed.labels[label]
        if isinstance(answer, StatusError):
            yield f"{name}: label {label}: {answer.message}"
        elif answer != version:
            yield f"{name}: label {label} means version {answer}, should be {version}"
