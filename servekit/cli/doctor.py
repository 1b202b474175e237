"""`servekit doctor`: what is wrong here, or will be, and what to do about it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.output import as_typed, print_json
from servekit.errors import ExitCode
from servekit.paths import bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from servekit.doctor.checks import Result
    from servekit.doctor.finding import Finding

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@click.command(name="doctor")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--only", metavar="CHECK[,CHECK]", multiple=True, help="Only these checks; may be given several times.")
@click.option("--list", "as_list", is_flag=True, help="Print the names of the checks and what they look at.")
@click.option(
    "--log", "log_file", metavar="FILE", help="Explain this log of TensorFlow Serving instead; - reads stdin."
)
@click.option(
    "--engine", default="auto", show_default=True, type=click.Choice(["auto", "docker", "native", "embedded"]),
    help="The one that you mean to use: what it lacks is an error then.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(
    models: tuple[str, ...], only: tuple[str, ...], as_list: bool, log_file: str | None, engine: str, as_json: bool
) -> None:
    """Look for what keeps the server from starting, from serving what it was told to, or from going on.

    Each finding has a place and a remedy. Works with and without Docker, and whether a server runs or not; changes
    nothing. MODEL limits the checks of model folders to these models. Exit status 0: no errors (perhaps warnings and
    notes); 1: errors; 2: wrong usage.
    """
    from servekit.doctor import checks

    if as_list:
        _print_list(as_json)
        return
    if log_file is not None:
        if models or only:
            raise click.UsageError("--log looks at the log alone: leave out MODEL and --only")
        results = [_log(log_file)]
    else:
        names = _names(only)
        results = checks.run(_surroundings(engine, models), names)
    if as_json:
        print_json(document(results))
    else:
        _print(results)
    sys.exit(ExitCode.DONE if checks.healthy(results) else ExitCode.NO)


def _names(only: tuple[str, ...]) -> list[str]:
    from servekit.doctor.checks import CHECKS

    names = [name.strip() for text in only for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CHECKS:
            raise click.BadParameter(f"{name} is no check; there are {', '.join(CHECKS)}", param_hint="--only")
    if only and not names:
        raise click.BadParameter(f"names no check; there are {', '.join(CHECKS)}", param_hint="--only")
    return names or list(CHECKS)


def _surroundings(engine: str, models: tuple[str, ...]) -> Any:
    from servekit.doctor.surroundings import Surroundings

    here = bundle()
    surroundings = Surroundings(here, engine=engine, only_models=frozenset(models))
    known = {model.name for model in surroundings.all_models}
    for name in models:
        if name not in known:
            raise click.BadParameter(
                f"{name} is neither in serving.yaml nor in models/; there are {', '.join(sorted(known)) or 'none'}",
                param_hint="MODEL",
            )
    return surroundings


def _log(file: str) -> Result:
    from servekit.doctor import log
    from servekit.doctor.checks import CHECKS, Result

    if file != "-" and not Path(file).is_file():
        raise click.BadParameter(f"{file} is no file", param_hint="--log")
    facts = log.read_text("stdin", sys.stdin.buffer.read()) if file == "-" else log.read_file(Path(file))
    return Result("log", CHECKS["log"].about, 0.0, (log.looked_at(facts),), tuple(log.judge(facts)))


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The shape that docs/troubleshooting.md describes; keys are only ever added to it."""
    findings = [(result, finding) for result in results for finding in result.findings]
    counts = Counter(finding.severity.value for _, finding in findings)
    return {
        "healthy": counts["error"] == 0,
        "counts": {severity: counts[severity] for severity in ("error", "warning", "note")},
        "findings": [
            {
                "check": result.name,
                "code": finding.code,
                "severity": finding.severity.value,
                "place": finding.place,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for result, finding in findings
        ],
        "checks": [
            {"name": result.name, "about": result.about, "seconds": result.seconds, "looked_at": list(result.looked_at)}
            for result in results
        ],
    }


def _print_list(as_json: bool) -> None:
    from servekit.doctor.checks import CHECKS

    if as_json:
        print_json([{"name": name, "about": check.about} for name, check in CHECKS.items()])
        return
    for name, check in CHECKS.items():
        click.echo(f"{name:12} {check.about}")


def _print(results: Sequence[Result]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for result in results:
        _print_result(console, result)
    counts = Counter(finding.severity.value for result in results for finding in result.findings)
    parts = [f"{counts[name]} {name}{'' if counts[name] == 1 else 's'}" for name in _COLOURS if counts[name]]
    console.print()
    console.print(
        ", ".join(parts) if parts else f"nothing found in {len(results)} check{'s' if len(results) > 1 else ''}"
    )


def _print_result(console: Console, result: Result) -> None:
    looked_at = "; ".join(text for text in result.looked_at if text) or "nothing to look at"
    mark = "[green]ok[/]" if not result.findings else f"[{_worst(result.findings)}]--[/]"
    console.print(f"{mark} [bold]{result.name}[/]: [dim]{_line(looked_at)}[/]")
    for finding in result.findings:
        severity = finding.severity.value
        console.print(
            f"   [{_COLOURS[severity]}]{severity}[/] {_line(finding.place)}: {_line(finding.message)} "
            f"[dim]\\[{finding.code}][/]"
        )
        if finding.remedy:
            console.print(f"      [green]do:[/] {_line(as_typed(finding.remedy))}")


def _line(text: str) -> str:
    """Folders' names may have line ends, terminal sequences and rich's own markup in them."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "?" for character in text))


def _worst(findings: Sequence[Finding]) -> str:
    present = {finding.severity.value for finding in findings}
    return next(colour for name, colour in _COLOURS.items() if name in present)
