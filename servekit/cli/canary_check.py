"""`servekit canary check`: what the automatic analysis would say of a canary now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from servekit.cli.output import print_json, say, stage
from servekit.cli.reach import reach, reach_options
from servekit.errors import ExitCode, ServekitError
from servekit.paths import bundle

if TYPE_CHECKING:
    from servekit.config.serving import Serving


@click.command(name="check")
@click.argument("model")
@click.option("--for", "count_s", type=click.FloatRange(min=0), metavar="SECONDS",
              help="How long requests are counted.  [default: the analysis' interval, at most 10]")  # fmt: skip
@click.option("--url", help="grpc://HOST:PORT of the model server.  [default: the one that `up` started]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reach_options
def command(
    model: str, count_s: float | None, url: str | None, as_json: bool, gateway_url: str | None,
    prometheus_url: str | None,
) -> None:  # fmt: skip
    """Check a canary once, as the analysis does at each interval, and print the verdict: one line a check.

    Counts the requests of both labels for a while, sends the samples to both, asks the queries and gates. Changes
    nothing: neither the weight nor the count of failed checks.

    \b
    Exit status 0: all checks pass. 1: one fails, or has no data. 2: serving.yaml is wrong.
    """
    from servekit.analysis.measure import Analyst, Sources
    from servekit.config.load import load

    here = bundle()
    serving = load(here.serving_yaml)
    _refuse(model, serving)
    where = reach(here, url=url, gateway_url=gateway_url, prometheus_url=prometheus_url)
    analyst = Analyst(here, model, serving, Sources(where.server_url, where.gateway_url, where.prometheus_url))
    try:
        if wait_s := analyst.default_count_s if count_s is None else count_s:
            with stage(f"counting requests for {wait_s:g} s"):
                analyst.count(wait_s)
        with stage("samples, queries and gates"):
            verdict = analyst.check()
    finally:
        analyst.close()
    if as_json:
        print_json({"model": model, **verdict.document()})
    else:
        click.echo(str(verdict))
        say(f"verdict: {verdict.result}")
    sys.exit(ExitCode.DONE if verdict.result == "pass" else ExitCode.NO)


def _refuse(model: str, serving: Serving) -> None:
    """Raises ServekitError for a model that has no canary."""
    if model not in serving.models:
        there = ", ".join(serving.models)
        raise ServekitError(f"no model {model} in serving.yaml (there are: {there})", hint="servekit canary status")
    if missing := {"stable", "canary"} - set(serving.models[model].labels):
        raise ServekitError(
            f"{model} has no label {sorted(missing)[0]}: there is nothing to compare",
            hint=f"servekit canary start {model} --version N",
        )
