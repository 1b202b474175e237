"""Pictures of the dashboards for README, from a running Prometheus: python -m grafana.pictures http://127.0.0.1:9090.

They show what the panels' queries answer, drawn by `grafana.drawing` and photographed by Chromium: a likeness without
Grafana. `python -m tests.monitoring.scenario` brings up a server with traffic and calls this.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx
from PIL import Image

from grafana.drawing import Series, height_px, page, width_px
from servekit.errors import ServekitError

DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
NOTE = "last {minutes:.0f} minutes · drawn from Prometheus' answers to the panels' queries"
POINTS = 240


class Source:
    """Answers for one dashboard, with the values of its variables."""

    def __init__(
        self, http: httpx.Client, dashboard: Mapping[str, Any], seconds: float, end: float, without: str = ""
    ) -> None:
        """`without` is left out of labels' values."""
        self._http, self._seconds, self._end, self._without = http, seconds, end, without
        self._variables: dict[str, str] = {}
        for entry in dashboard["templating"]["list"]:
            self._variables[entry["name"]] = self._value(entry)

    def answers(self, panel: Mapping[str, Any]) -> list[Series]:
        return [series for target in panel.get("targets") or [] for series in self._series(target)]

    def _series(self, target: Mapping[str, Any]) -> list[Series]:
        expression = self._filled(target["expr"]).replace("$__rate_interval", "60s")
        asked = {"query": expression, "time": self._end}
        if not target["instant"]:
            start = self._end - self._seconds
            asked |= {"start": start, "end": self._end, "step": max(self._seconds / POINTS, 1)}
        found = self._get("query" if target["instant"] else "query_range", asked)["result"]
        series = [
            Series(
                _legend(target.get("legendFormat", ""), one["metric"]),
                {name: text.replace(self._without, "") for name, text in one["metric"].items()},
                [(float(when), float(value)) for when, value in one.get("values", [one.get("value")])],
            )
            for one in found
        ]
        return [one for one in series if not all(math.isnan(value) for _, value in one.points)]

    def _value(self, entry: Mapping[str, Any]) -> str:
        if entry.get("allValue"):
            return str(entry["allValue"])
        if "current" in entry:
            return str(entry["current"]["value"])
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", entry["query"])
        assert found is not None, entry["query"]
        values = [
            value for value in self._get(f"label/{found[2]}/values", {"match[]": self._filled(found[1])}) if value
        ]
        if not values:
            raise ServekitError(f"variable {entry['name']}: Prometheus has no values of {entry['query']}")
        return str(values[0])

    def _filled(self, text: str) -> str:
        for name, value in self._variables.items():
            text = text.replace(f"${name}", value)
        return text

    def _get(self, path: str, asked: Mapping[str, Any]) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=dict(asked)).json()
        if answer["status"] != "success":
            raise ServekitError(f"Prometheus: {answer['error']}")
        return answer["data"]


def _legend(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), text)


def picture(text: str, width: int, height: int, out: Path) -> None:
    """Chromium's photograph of an HTML page, in 128 colours. Raises ServekitError."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise ServekitError("chromium is not on PATH", hint="apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(text)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
        shot = Path(folder) / "shot.png"
        command = [chromium, *options, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        ran = subprocess.run(
            [*command, f"--screenshot={shot}", f"file://{folder}/page.html"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not shot.is_file():
            raise ServekitError(f"chromium made no picture: {ran.stderr.strip()[-300:]}")
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128).save(out, optimize=True)


@click.command()
@click.argument("prometheus", default="http://127.0.0.1:9090")
@click.option("--seconds", type=click.FloatRange(min=10), default=1800, show_default=True, help="Up to now.")
@click.option("--without", default="", metavar="TEXT", help="Leave this out of labels, such as a temporary folder.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), show_default=True)
def main(prometheus: str, seconds: float, without: str, out: Path) -> None:
    """Write OUT/dashboard-NAME.png for every dashboard."""
    end = time.time()
    try:
        with httpx.Client(base_url=prometheus, timeout=30) as http:
            for path in sorted(DASHBOARDS.glob("*.json")):
                dashboard = json.loads(path.read_text())
                source = Source(http, dashboard, seconds, end, without)
                answers = {panel["id"]: source.answers(panel) for panel in dashboard["panels"]}
                target = out / f"dashboard-{path.stem}.png"
                text = page(dashboard, answers, NOTE.format(minutes=seconds / 60))
                picture(text, width_px(), height_px(dashboard), target)
                click.echo(f"{target}: {target.stat().st_size // 1024} kB")
    except httpx.TransportError as error:
        raise click.ClickException(f"{prometheus}: {error}") from None
    except ServekitError as error:
        raise click.ClickException(f"{error.message}" + (f" (hint: {error.hint})" if error.hint else "")) from None


if __name__ == "__main__":
    main()
