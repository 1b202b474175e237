"""What the model server's container runs: its start and its health check, as scripts for the bash in its image."""

from __future__ import annotations

import math
from urllib.parse import quote

from servekit.config.flags import server_flags
from servekit.config.rendered_files import (
    CONTAINER_CONFIG,
    CONTAINER_GRPC_PORT,
    CONTAINER_PROCESS,
    CONTAINER_REST_PORT,
    HEALTHCHECK,
    START,
)
from servekit.config.serving import Serving
from servekit.config.text_proto import Templates

PROGRAM = "/usr/bin/tensorflow_model_server"
"""In TensorFlow Serving's images. Their own entrypoint is a script that does not pass SIGTERM on."""


def in_container(serving: Serving) -> Serving:
    """With thread pools for the cores that the container may use: the server counts the machine's."""
    limit = serving.stack.tfserving.cpus
    if serving.server.cpus != "auto" or limit == "auto":
        return serving
    server = serving.server.model_copy(update={"cpus": math.ceil(limit)})
    return serving.model_copy(update={"server": server})


def start_script(serving: Serving, texts: Templates) -> str:
    """Runs PROGRAM with its flags; `serving` as `in_container` gives it."""
    flags = server_flags(
        serving, rendered=CONTAINER_CONFIG, port=CONTAINER_GRPC_PORT, rest_api_port=CONTAINER_REST_PORT
    )
    meant = ["flags=(", *flags, ")", "exec", PROGRAM, "${flags[@]}"]
    return texts.render_shell(START, meant, program=PROGRAM, flags=flags)


def healthcheck_script(serving: Serving, texts: Templates) -> str:
    """Exit status 0 when every configured model has an AVAILABLE version."""
    models = [quote(name, safe="") for name in serving.models]
    meant = ["models=(", *models, ")"]
    return texts.render_shell(HEALTHCHECK, meant, models=models, port=CONTAINER_REST_PORT, process=CONTAINER_PROCESS)
