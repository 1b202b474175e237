"""A `Serving` to the text of the model server's config files, and of Prometheus' list of targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from servekit.config.batching import Batching
from servekit.config.container import gateway_files, healthcheck_script, in_container, start_script
from servekit.config.load import shown_path
from servekit.config.models import Latest, Model, Specific
from servekit.config.rendered_files import (
    BATCHING,
    CONTAINER,
    CONTAINER_MODELS,
    CONTAINER_REST,
    HEALTHCHECK,
    MODELS,
    MONITORING,
    SCRAPE_TARGETS,
    START,
)
from servekit.config.serving import Serving
from servekit.config.text_proto import Templates
from servekit.errors import ConfigError, Problem
from servekit.protos import messages


@dataclass(frozen=True, slots=True)
class _Side:
    """For whom a file is rendered: `folder` below config/rendered, its models, its REST address for Prometheus."""

    folder: str
    serving: Serving
    models: PurePath
    rest: str


def render(serving: Serving, *, models: Path, templates: Path) -> dict[str, str]:
    """Path below config/rendered to text. `models` is the bundle's folder of models; in a container it is /models.

    models.config comes last: it is the file that a running server watches.
    """
    texts = Templates(templates)
    contained = in_container(serving)
    sides = (
        _Side("", serving, models.absolute(), f"127.0.0.1:{serving.server.rest_api_port}"),
        _Side(f"{CONTAINER}/", contained, CONTAINER_MODELS, CONTAINER_REST),
    )
    result = {f"{side.folder}{name}": text for side in sides for name, text in _shared(side, texts)}
    result[f"{CONTAINER}/{START}"] = start_script(contained, texts)
    result[f"{CONTAINER}/{HEALTHCHECK}"] = healthcheck_script(contained, texts)
    result |= {f"{CONTAINER}/{name}": text for name, text in gateway_files(contained, texts).items()}
    return result | {f"{side.folder}{MODELS}": _models(side.serving, side.models, texts) for side in sides}


def _shared(side: _Side, texts: Templates) -> Iterator[tuple[str, str]]:
    monitoring, targets = side.serving.monitoring, scrape_targets(side.serving, side.rest)
    yield BATCHING, _batching(side.serving, texts)
    yield MONITORING, texts.render(MONITORING, monitoring_message(side.serving), monitoring=monitoring)
    yield SCRAPE_TARGETS, texts.render_yaml(SCRAPE_TARGETS, targets, monitoring=monitoring, address=side.rest)


def models_message(serving: Serving, models: PurePath) -> Any:
    """ModelServerConfig. Labels and versions stand in the order of serving.yaml."""
    config = messages.ModelServerConfig()
    config.model_config_list.SetInParent()
    for name, model in serving.models.items():
        entry = config.model_config_list.config.add(name=name, model_platform="tensorflow")
        entry.base_path = str(model.folder(name, models))
        entry.version_labels.update(model.labels)
        if isinstance(model.versions, Latest):
            entry.model_version_policy.latest.num_versions = model.versions.latest
        elif isinstance(model.versions, Specific):
            entry.model_version_policy.specific.versions.extend(model.versions.specific)
        else:
            entry.model_version_policy.all.SetInParent()
    return config


def batching_message(serving: Serving) -> Any:
    """BatchingParameters. max_batch_size is always there: splitting without it crashes TF Serving."""
    batching, parameters = serving.batching, messages.BatchingParameters()
    parameters.max_batch_size.value = batching.max_batch_size
    parameters.batch_timeout_micros.value = batching.batch_timeout_micros
    parameters.max_enqueued_batches.value = batching.max_enqueued_batches
    parameters.enable_large_batch_splitting.value = batching.enable_large_batch_splitting
    if batching.enable_large_batch_splitting:
        parameters.max_execution_batch_size.value = batching.execution_size()
    if (threads := batch_threads(serving)) is not None:
        parameters.num_batch_threads.value = threads
    parameters.allowed_batch_sizes.extend(batching.batch_sizes())
    parameters.pad_variable_length_inputs = batching.pad_variable_length_inputs
    return parameters


def monitoring_message(serving: Serving) -> Any:
    config = messages.MonitoringConfig()
    config.prometheus_config.enable = serving.monitoring.enabled
    config.prometheus_config.path = serving.monitoring.path
    return config


def scrape_targets(serving: Serving, address: str) -> list[dict[str, Any]]:
    """What Prometheus reads by `file_sd_configs`; it takes up a change by itself."""
    if not serving.monitoring.enabled:
        return []
    return [{"targets": [address], "labels": {"__metrics_path__": serving.monitoring.path}}]


def batch_threads(serving: Serving) -> int | None:
    """num_batch_threads in numbers; None leaves it to the server, which takes the cores that it finds."""
    for setting in (serving.batching.num_batch_threads, serving.server.cpus):
        if setting != "auto":
            return setting
    return None


def _models(serving: Serving, root: PurePath, texts: Templates) -> str:
    try:
        meant = models_message(serving, root)
    except UnicodeEncodeError:  # a folder's name need not be UTF-8, a protobuf string has to be
        raise ConfigError([Problem(shown_path(Path(root)), None, "", "the folder's name is not UTF-8")]) from None
    models = [_model_values(name, model, root) for name, model in serving.models.items()]
    return texts.render(MODELS, meant, models=models)


def _model_values(name: str, model: Model, root: PurePath) -> dict[str, Any]:
    versions = model.versions
    return {
        "name": name,
        "base_path": str(model.folder(name, root)),
        "latest": versions.latest if isinstance(versions, Latest) else None,
        "specific": versions.specific if isinstance(versions, Specific) else None,
        "labels": model.labels,
    }


def _batching(serving: Serving, texts: Templates) -> str:
    batching: Batching = serving.batching
    return texts.render(
        BATCHING,
        batching_message(serving),
        batching=batching,
        num_batch_threads=batch_threads(serving),
        execution_size=batching.execution_size(),
        batch_sizes=batching.batch_sizes(),
    )
