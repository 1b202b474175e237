"""What the model server's container runs: its start and its health check, as scripts for the bash in its image."""

from __future__ import annotations

import math
from urllib.parse import quote

from servekit.config.flags import server_flags
from servekit.config.rendered_files import (
    CONTAINER_CONFIG,
    CONTAINER_GATEWAY_ADMIN_PORT,
    CONTAINER_GATEWAY_METRICS_PORT,
    CONTAINER_GRPC_PORT,
    CONTAINER_PROCESS,
    CONTAINER_REST_PORT,
    CONTAINER_SERVER,
    GATEWAY_BOOTSTRAP,
    GATEWAY_HEALTHCHECK,
    GATEWAY_START,
    HEALTHCHECK,
    START,
)
from servekit.config.serving import Serving
from servekit.config.text_proto import Templates
from servekit.gateway import program
from servekit.gateway.address import Address
from servekit.gateway.bootstrap import Places, bootstrap_text
from servekit.gateway.names import ROUTES_FILE as ROUTES

ENVOY = "envoy"
"""On PATH in Envoy's images."""
GATEWAY_THREADS = 2

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


def gateway_files(serving: Serving, texts: Templates) -> dict[str, str]:
    """What the gateway's container runs, by name; its routes are not among them."""
    everywhere, loopback = "0.0.0.0", "127.0.0.1"  # noqa: S104  its network is the stack's own
    admin = Address(loopback, CONTAINER_GATEWAY_ADMIN_PORT)
    places = Places(
        grpc=Address(everywhere, CONTAINER_GRPC_PORT),
        rest=Address(everywhere, CONTAINER_REST_PORT),
        metrics=Address(everywhere, CONTAINER_GATEWAY_METRICS_PORT),
        server_grpc=Address(CONTAINER_SERVER, CONTAINER_GRPC_PORT),
        server_rest=Address(CONTAINER_SERVER, CONTAINER_REST_PORT),
        routes=CONTAINER_CONFIG / ROUTES,
        admin=admin,
    )
    command = program.command(ENVOY, GATEWAY_THREADS, str(CONTAINER_CONFIG / GATEWAY_BOOTSTRAP))
    meant = ["command=(", *command, ")"]
    port = CONTAINER_GATEWAY_METRICS_PORT
    return {
        GATEWAY_BOOTSTRAP: bootstrap_text(serving, places),
        GATEWAY_START: texts.render_shell(GATEWAY_START, meant, command=command, admin=admin.port),
        GATEWAY_HEALTHCHECK: texts.render_shell(GATEWAY_HEALTHCHECK, ["metrics_port=(", str(port), ")"], port=port),
    }
