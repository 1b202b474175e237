"""`servekit serve`: everything after the word belongs to the server's own flag grammar."""

from __future__ import annotations

import sys

import click


class _Untouched(click.Command):
    """Takes its arguments as they are: click would swallow a `--`, answer `--help` and split `-abc`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


@click.command(name="serve", cls=_Untouched, add_help_option=False)
@click.pass_context
def command(context: click.Context) -> None:
    """The embedded server; takes tensorflow_model_server's flags."""
    from servekit.server.main import main

    sys.exit(main(context.args))
