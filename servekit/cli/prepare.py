"""`servekit prepare`: everything that has to be there before a server starts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from servekit.cli.interrupts import interrupt_on
from servekit.cli.output import say, say_hint, stage
from servekit.errors import EngineError, Unreachable
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving
    from servekit.engine.state import EngineState

SPARE_MB = 20
"""Room for rendered files and a log."""


@click.command(name="prepare")
def command() -> None:
    """Export the configured models that models/ lacks, then render config/rendered.

    What `up` does before it starts a server, and the service `setup` of docker-compose.yaml before the others start.
    What is there already is left as it is.
    """
    interrupt_on(signal.SIGTERM, signal.SIGINT)
    prepare(bundle())


def prepare(here: Bundle, running: EngineState | None = None) -> Serving:
    """A server that is `running` is brought up to date in steps: one write of everything could freeze it.

    Raises ConfigError, EngineError, ServekitError.
    """
    from servekit.config.bundle import render_bundle
    from servekit.config.load import load
    from servekit.engine import exporting, preflight

    missing = exporting.missing_versions(load(here.serving_yaml), here, exporting.recipe_versions)
    preflight.check_disk(here.models, exporting.NEEDED_MB if missing else SPARE_MB)
    if missing:
        say(f"export {', '.join(map(str, missing))}")
        exporting.export_all(missing, say)
    if running is not None and (serving := _applied(here, running)) is not None:
        return serving
    with stage("render config/rendered"):
        rendering = render_bundle(here)
    for warning in rendering.warnings:
        say(f"warning: {warning}")
        if warning.hint:
            say_hint(warning.hint)
    return rendering.serving


def _applied(here: Bundle, running: EngineState) -> Serving | None:
    """None when it does not answer."""
    from servekit.cli import awaited
    from servekit.cli.apply import tell
    from servekit.client import Client
    from servekit.rollout.at_work import only_one
    from servekit.rollout.controller import Controller, Settings
    from servekit.rollout.watch import desired

    serving = desired(here)
    settings = Settings(container=running.engine == "docker", gateway_url=running.gateway_url)
    try:
        with Client(running.server_grpc_url) as client:
            controller = Controller(here, client, tell, settings)
            if awaited.is_watched(here):
                if not awaited.wait(here, controller, serving, settings.load_s):
                    raise EngineError("not as serving.yaml says, for the reasons above", hint="servekit status")
                return serving
            with only_one(here):
                if wrong := controller.converge(serving):
                    names = ", ".join(one.change.name for one in wrong)
                    raise EngineError(f"{names}: not as serving.yaml says, see above", hint="servekit status")
    except Unreachable:
        return None
    return serving
