"""Writes grafana/dashboards/*.json from overview.py and canary.py: python -m grafana.build [--check].

The files are committed: whoever runs the stack needs no Python. --check writes nothing; exit status 1 if one is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.canary import canary
from grafana.overview import overview
from servekit.atomic import write_all_atomically

OUT = Path(__file__).resolve().parent / "dashboards"


def texts() -> dict[Path, str]:
    """Path to text of every dashboard."""
    return {OUT / f"{name}.json": _text(made.build()) for name, made in _dashboards().items()}


def survives(document: Any) -> bool:
    """Reading and writing it again drops keys that Grafana's schema does not know: a difference is a mistake."""
    again = Dashboard.from_json(document)
    return bool(json.loads(json.dumps(again, cls=JSONEncoder)) == document)


def _dashboards() -> dict[str, Any]:
    return {"overview": overview(), "canary": canary()}


def _text(made: Dashboard) -> str:
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 if a file is out of date.")
def main(check: bool) -> None:
    """Write grafana/dashboards."""
    stale = {path: text for path, text in texts().items() if not path.is_file() or path.read_text() != text}
    for path in stale:
        click.echo(f"{'out of date' if check else 'written'}: {path.relative_to(Path.cwd())}")
    if check and stale:
        click.echo("hint: python -m grafana.build", err=True)
        sys.exit(1)
    write_all_atomically(stale)


if __name__ == "__main__":
    main()
