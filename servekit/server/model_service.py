"""tensorflow.serving.ModelService without a protocol: its messages in, its messages out, StatusError on errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.core import ServerCore
from servekit.server.servable import ServableState

logger = logging.getLogger(__name__)

MetricValue = Callable[[str], int]
"""Name of a metric (`/tensorflow/serving/request_count`) to its value now; 0 for an unknown one."""


def get_model_status(core: ServerCore, request: Any) -> Any:
    """GetModelStatusRequest to GetModelStatusResponse: highest version first; a version label is ignored."""
    if not request.HasField("model_spec"):
        raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
    return status_response(core.states(spec.name, version))


def status_response(states: list[ServableState]) -> Any:
    """States to a GetModelStatusResponse; a version that is well has error code OK and no message."""
    response = messages.GetModelStatusResponse()
    for state in states:
        entry = response.model_version_status.add(version=state.id.version, state=int(state.state))
        entry.status.SetInParent()
        if state.error is not None:
            entry.status.error_code = int(state.error.code)
            entry.status.error_message = state.error.message
    return response


def handle_reload_config_request(core: ServerCore, request: Any, metric_value: MetricValue = lambda _name: 0) -> Any:
    """ReloadConfigRequest to ReloadConfigResponse; replaces the whole configuration, as `ServerCore.reload` does.

    Each of `metric_names` is answered with its increase during the reload, in the order of the names.
    """
    config = request.config
    if config.WhichOneof("config") != "model_config_list":
        error = StatusError(
            Code.INVALID_ARGUMENT,
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported",
        )
        logger.error("ReloadConfig failed: %s", error.message)
        raise error
    for index, model in enumerate(config.model_config_list.config):
        logger.info(
            "Config entry index : %d path : %s name : %s platform : %s",
            index,
            model.base_path,
            model.name,
            model.model_platform,
        )
    before = {name: metric_value(name) for name in request.metric_names}
    try:
        core.reload(config)
    except StatusError as error:
        logger.error("ReloadConfig failed: %s", error.message)
        raise
    response = messages.ReloadConfigResponse()
    response.status.SetInParent()
    for name in sorted(before):
        response.metric.add(name=name, int64_value_increase=metric_value(name) - before[name])
    return response
