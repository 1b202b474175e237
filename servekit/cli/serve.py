"""`servekit serve`: everything after the word belongs to the server's own flag grammar."""

from __future__ import annotations

import sys

import click


@click.command(
    name="serve",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """The embedded server; takes tensorflow_model_server's flags."""
    from servekit.server.main import main

    # click swallows a `--` of its own, which TensorFlow's grammar counts as an argument.
    given = sys.argv[sys.argv.index("serve") + 1 :] if "serve" in sys.argv else list(arguments)
    sys.exit(main(given))
