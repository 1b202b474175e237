"""`servekit up` with Docker: the stack of docker-compose.yaml, brought to what the files say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from servekit.cli import first_answers
from servekit.cli.output import say, stage
from servekit.cli.prepare import prepare
from servekit.errors import EngineError, ExitCode
from servekit.paths import Bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.docker import Compose, Service
    from servekit.engine.state import EngineState


def up(here: Bundle, compose: Compose, *, timeout_s: float, demo: bool) -> EngineState:
    """Returns when everything is healthy and shown. What was not running before is ended if that fails."""
    from servekit.engine import stack, state

    services = compose.services()
    before = compose.container(stack.SERVER)
    stack.check_ports(compose, services)
    is_running = before is not None and before.running
    serving = prepare(here, stack.engine_state(compose, services) if is_running else None)
    try:
        with stage("docker compose up tfserving gateway"):
            compose.must("up", "--detach", stack.SERVER, stack.GATEWAY)
        for service in (stack.SERVER, stack.GATEWAY):
            container = compose.container(service)
            if container is not None and (stale := stack.stale_files(here, service, container)):
                with stage(f"start {service} again for {', '.join(stale)}"):
                    compose.must("restart", service)
        running = stack.engine_state(compose, services)
        state.write(here, running)
        _until_ready(here, serving, compose, running, timeout_s)
        with stage("docker compose up: controller, exporter, Prometheus, Grafana"):
            compose.must("up", "--detach", "--wait", "--wait-timeout", str(round(timeout_s)))
        if is_running:
            _reload_prometheus(compose)
        first_answers.print_answers(first_answers.ask(here, serving, running) if demo else [])
        first_answers.print_urls(here, serving, running)
        _print_monitoring(services)
    except BaseException:
        if not is_running:
            stack.end(compose, volumes=False)
        raise
    return running


def _until_ready(here: Bundle, serving: Serving, compose: Compose, running: EngineState, timeout_s: float) -> None:
    from servekit.client import Client
    from servekit.engine import log, ready, server, stack

    wanted = server.wanted_versions(serving, here.models)
    restarts = 0 if (first := compose.container(stack.SERVER)) is None else first.restarts

    def ended() -> str | None:
        how = stack.how_it_ended(compose.container(stack.SERVER), restarts)
        if how is not None:
            stack.save_log(compose)
        return how

    with stage(f"wait until {server.listed(wanted)} are AVAILABLE"), Client(running.grpc_url) as client:
        ready.wait_until_available(client, wanted, ended=ended, log=log.path(here), timeout_s=timeout_s)


def _reload_prometheus(compose: Compose) -> None:
    """Rules and prometheus.yml may have changed; an unchanged file costs it nothing."""
    answer = compose.run("kill", "--signal", "HUP", "prometheus")
    if answer.returncode != 0:
        say("warning: Prometheus could not be told to read its files again: docker compose restart prometheus")


def _print_monitoring(services: Mapping[str, Service]) -> None:
    from servekit.engine import stack

    ports = stack.published(services)
    if port := ports.get("PROMETHEUS_PORT"):
        click.echo(f"Prometheus  http://{port}")
    if port := ports.get("GRAFANA_PORT"):
        click.echo(f"Grafana     http://{port}  (user admin, password: {stack.SHOW_PASSWORD})")


def stay(compose: Compose) -> None:
    """The server's log on stderr until somebody interrupts; then the stack is ended. Exit status 130."""
    from servekit.engine import stack

    say("The server's log follows; Ctrl-C ends the stack.")
    command = compose.command("logs", "--follow", "--no-log-prefix", "--since", "0s", stack.SERVER)
    try:
        while compose.container(stack.SERVER) is not None:
            subprocess.run(command, env=compose.env(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        raise EngineError("the server's container is gone", hint="servekit status")
    except KeyboardInterrupt:
        say("\nending the stack ...")
        stack.end(compose, volumes=False)
        sys.exit(ExitCode.INTERRUPTED)
