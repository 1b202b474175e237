"""`servekit render`: config/serving.yaml into the model server's own files and Prometheus' list of targets."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.output import print_json, say, say_hint
from servekit.errors import ConfigError, ExitCode, Problem
from servekit.paths import bundle

if TYPE_CHECKING:
    from servekit.config.write import FileChange


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Read this file instead of config/serving.yaml.")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of config/rendered.")
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 if a file is out of date.")
@click.option("--diff", is_flag=True, help="Write nothing; print what would change, exit status 1 if anything.")
@click.option(
    "--allow-missing-models", is_flag=True, help="Models that are not in models/ yet are warnings, not errors."
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of serving.yaml (with --check: compare the file).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(
    config: Path | None,
    out: Path | None,
    check: bool,
    diff: bool,
    allow_missing_models: bool,
    schema: bool,
    as_json: bool,
) -> None:
    """Turn config/serving.yaml into models.config, batching.config, monitoring.config and scrape_targets.yml.

    They go to config/rendered, with this machine's paths, and to config/rendered/container, with the container's.
    Nothing is written unless everything is right; a running server takes up models.config by itself.
    """
    if schema:
        _schema(check)
        return
    try:
        _render(config, out, dry=check or diff, diff=diff, allow_missing=allow_missing_models, as_json=as_json)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"problems": [dataclasses.asdict(problem) for problem in error.problems]})
        sys.exit(error.exit_code)


def _render(
    config: Path | None, out: Path | None, *, dry: bool, diff: bool, allow_missing: bool, as_json: bool
) -> None:
    from servekit.config.bundle import prepare
    from servekit.config.write import write

    home = bundle()
    out = out or home.rendered
    rendering = prepare(home, config=config, out=out, allow_missing_models=allow_missing)
    changes, warnings = rendering.changes, rendering.warnings
    if not dry:
        write(changes)
    stale = [change for change in changes if change.status != "unchanged"]
    if as_json:
        print_json(
            {
                "written": not dry,
                "files": [_described(change, diff, out) for change in changes],
                "warnings": [dataclasses.asdict(warning) for warning in warnings],
            }
        )
    else:
        _tell(warnings)
        for change in stale:
            if diff:
                sys.stdout.writelines(change.diff(_name(change, out)))
            else:
                click.echo(f"{change.status:8} {_short(change.path)}")
        say(_summary([change.path.name for change in stale], len(changes), dry, rendering.serving.server.poll_seconds))
    if dry and stale:
        sys.exit(ExitCode.NO)


def _described(change: FileChange, diff: bool, out: Path) -> dict[str, str]:
    described = {"path": str(change.path), "status": change.status}
    return described | {"diff": "".join(change.diff(_name(change, out)))} if diff else described


def _name(change: FileChange, out: Path) -> str:
    return str(change.path.relative_to(out))


def _tell(warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")
        if warning.hint:
            say_hint(warning.hint)


def _summary(stale: list[str], total: int, dry: bool, poll_seconds: int) -> str:
    if not stale:
        return f"{total} files are up to date"
    if dry:
        return f"{len(stale)} of {total} files are out of date: run servekit render"
    lines = [f"{len(stale)} of {total} files written"]
    if "models.config" in stale:
        lines.append(f"a running server takes up models.config within {poll_seconds} s")
    if restart := sorted({"batching.config", "monitoring.config"} & set(stale)):
        lines.append(f"a running server takes up {' and '.join(restart)} when it is started again")
    return "\n".join(lines)


def _schema(check: bool) -> None:
    from servekit.config.json_schema import schema_text

    text, path = schema_text(), bundle().serving_schema
    if not check:
        sys.stdout.write(text)
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        say(f"{_short(path)} is out of date: servekit render --schema > {_short(path)}")
        sys.exit(ExitCode.NO)


def _short(path: Path) -> Any:
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
