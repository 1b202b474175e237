"""`servekit`: finds the command's module, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys

import click

from servekit import __version__
from servekit.cli.output import say, say_hint
from servekit.errors import ExitCode, ServekitError

# A command is the object `command` of servekit/cli/<name>.py; nothing else of it is imported for `servekit --help`.
COMMANDS = {
    "up": "Export what is missing, render, start the server, show its answers.",
    "down": "Stop what `up --detach` left running.",
    "status": "Models, versions, states and labels of the running server.",
    "doctor": "What is wrong here, or will be, and what to do about it.",
    "predict": "Send images, a folder of them, or JSON to a model, over REST or gRPC.",
    "prepare": "Export what is missing and render: what `up` does before it starts a server.",
    "render": "Turn config/serving.yaml into the model server's config files.",
    "apply": "Bring the running server to what serving.yaml says, in the order that it accepts.",
    "canary": "Give a new version a share of the requests, watch it, promote it or take it back.",
    "export": "Build a model version with its recipe, check it, publish it.",
    "inspect": "Signatures of a model version, with ready curl and gRPC calls.",
    "exporter": "Tell Prometheus what a tensorflow_model_server does not: states, labels, memory.",
    "bench": "Measure a running server: rates and latencies, REST and gRPC side by side.",
    "tune": "Find batching and thread settings for this machine by measuring; write them down.",
    "serve": "The embedded server; takes tensorflow_model_server's flags.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"servekit.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="servekit")
def root() -> None:
    """TensorFlow Serving, deployed: export, render, serve, canary.

    Results go to stdout, everything else to stderr. Exit status: 0 done, 1 the answer is no, 2 usage or configuration,
    130 interrupted.
    """


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # file names and labels that this terminal cannot show
    try:
        try:
            status = root.main(standalone_mode=False)  # what `ctx.exit` was given comes back as a value
        finally:
            sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else ExitCode.DONE)
    except click.exceptions.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except ServekitError as error:
        report(error)
        sys.exit(error.exit_code)
    except OSError as error:
        # What stdout still holds would fail a second time when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `servekit status | head -1` is no mistake
            reason = error.strerror or str(error)
            say(f"error: {error.filename}: {reason}" if error.filename else f"error: {reason}")
        sys.exit(ExitCode.NO)


def report(error: ServekitError) -> None:
    prefix = "error: "
    for line in str(error).splitlines():
        if line.startswith("hint: "):
            say_hint(line.removeprefix("hint: "))
        else:
            say(prefix + line)
            prefix = ""
    if error.hint:
        say_hint(error.hint)
