"""`scripts/demo-canary`: runs the demonstration and prints its counts."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from servekit.canary.demo import Goal, Total, run
from servekit.cli.interrupts import interrupt_on
from servekit.cli.main import report
from servekit.cli.output import print_json, say
from servekit.errors import ExitCode, ServekitError
from servekit.paths import bundle

FULL = Goal(requests=50_000, label_moves=20, loads=20, unloads=20)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--full", is_flag=True, help="Until there were 50,000 requests, 20 label moves, 20 loads and 20 unloads.")
@click.option("--rate", type=click.FloatRange(1, 2000), default=120.0, show_default=True, help="Requests a second.")
@click.option("--json", "as_json", is_flag=True, help="The counts as one JSON document.")
def command(full: bool, rate: float, as_json: bool) -> None:
    """Four canaries under steady REST and gRPC load: one is promoted, three are rolled back, by themselves.

    It serves a model of its own, in a temporary folder and on free ports; nothing else is touched. Exit status 0: each
    canary ended as it had to, and no request failed but those that a broken canary itself answered.
    """
    import signal

    interrupt_on(signal.SIGTERM, signal.SIGINT)
    templates = bundle().templates
    try:
        with tempfile.TemporaryDirectory(prefix="servekit-demo-") as folder:
            total = run(Path(folder) / "home", templates, FULL if full else Goal(), rate, say)
    except ServekitError as error:
        report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    if as_json:
        print_json(total.document())
    else:
        _print(total)
    sys.exit(ExitCode.NO if total.lost or total.wrong_ends else ExitCode.DONE)


def _print(total: Total) -> None:
    click.echo("")
    for name, value in total.document().items():
        click.echo(f"{name.replace('_', ' '):36} {value}")
    for failure in total.lost[:10]:
        click.echo(f"lost: {failure.protocol}, answered by {failure.label or 'nobody'}: {failure.error}")
    for wrong in total.wrong_ends:
        click.echo(f"not as it should be: {wrong}")


if __name__ == "__main__":
    command()
