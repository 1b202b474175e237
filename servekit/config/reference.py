"""Writes the tables of docs/configuration.md: every key of serving.yaml, from the types.

Run: python -m servekit.config.reference [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticUndefined

from servekit.atomic import write_atomically
from servekit.config.batching import Batching
from servekit.config.canary import Agreement, Analysis, Canary, Gate, Query
from servekit.config.gateway import Gateway
from servekit.config.json_schema import key_descriptions, schema
from servekit.config.models import Model
from servekit.config.monitoring import Monitoring
from servekit.config.section import INT64_MAX, Section
from servekit.config.server import Server
from servekit.config.stack import VARIABLES, GatewayLimits, GrafanaLimits, ModelServerLimits, PrometheusLimits
from servekit.paths import bundle

START = "<!-- keys: written by python -m servekit.config.reference -->"
END = "<!-- end of keys -->"
SECTIONS: dict[str, type[Section]] = {
    "models.NAME": Model,
    "models.NAME.canary": Canary,
    "models.NAME.canary.analysis": Analysis,
    "models.NAME.canary.analysis.agreement": Agreement,
    "models.NAME.canary.analysis.queries.NAME": Query,
    "models.NAME.canary.analysis.gates.NAME": Gate,
    "batching": Batching,
    "monitoring": Monitoring,
    "server": Server,
    "gateway": Gateway,
    "stack.tfserving": ModelServerLimits,
    "stack.gateway": GatewayLimits,
    "stack.prometheus": PrometheusLimits,
    "stack.grafana": GrafanaLimits,
}
# Where a key ends up, if that is not a flag or field of its own name.
BECOMES = {
    "models.NAME.versions": "`models.config`: `model_version_policy`",
    "models.NAME.labels": "`models.config`: `version_labels`",
    "models.NAME.base_path": "`models.config`: `base_path`",
    "models.NAME.canary": "read by servekit",
    "batching.enabled": "`--enable_batching`, `--batching_parameters_file`",
    "monitoring.enabled": "`monitoring.config`: `prometheus_config.enable`; `scrape_targets.yml`",
    "monitoring.path": "`monitoring.config`: `prometheus_config.path`; `scrape_targets.yml`",
    "server.poll_seconds": "`--model_config_file_poll_wait_seconds`, `--file_system_poll_wait_seconds`",
    "server.cpus": "`num_batch_threads` and `--rest_api_num_threads` (4 times as many)",
    "server.flags": "`--NAME=VALUE` each",
    **{f"stack.{key}": f"`{variable}`" for key, variable in VARIABLES.items()},
}


def tables() -> str:
    parts = schema()["$defs"]
    return "\n".join(line for name in SECTIONS for line in _table(name, parts))


def _table(name: str, parts: dict[str, Any]) -> Iterator[str]:
    section = SECTIONS[name]
    yield f"\n### `{name}`\n"
    yield "| key | values | default | what it does | becomes |"
    yield "|---|---|---|---|---|"
    for key, text in key_descriptions(section).items():
        values = parts[section.__name__]["properties"][key]
        default = _default(section.model_fields[key].get_default(call_default_factory=True))
        yield f"| `{key}` | {_values(values)} | {default} | {text} | {_becomes(name, key)} |"


def _becomes(section: str, key: str) -> str:
    if section == "gateway" or section.startswith("models.NAME.canary"):
        return BECOMES.get(f"{section}.{key}", "read by servekit")
    file = "`batching.config`: " if section == "batching" else ""
    return BECOMES.get(f"{section}.{key}", f"{file}`{'' if file else '--'}{key}`")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value == {}:
        return "none"
    if isinstance(value, Section):
        values = value.model_dump()
        if any(isinstance(item, dict) for item in values.values()):
            return "below"
        return f"`{{{', '.join(f'{key}: {item}' for key, item in values.items())}}}`"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(part: dict[str, Any]) -> str:
    if "anyOf" in part or "oneOf" in part:
        members = (_values(member) for member in part.get("anyOf") or part["oneOf"])
        return " or ".join(text for text in members if text)
    if "const" in part:
        return f"`{part['const']}`"
    if "$ref" in part:
        return f"`{{{part['$ref'].rpartition('/')[2].lower()}: ...}}`"
    match part.get("type"):
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return _range(part)
        case "object":
            values = part.get("additionalProperties")
            return f"name: {_values(values)}" if isinstance(values, dict) else "name: value"
        case "array":
            return "list"
        case "null":
            return ""
    return "text"


def _range(part: dict[str, Any]) -> str:
    low, high = part.get("minimum", 0), part.get("maximum", INT64_MAX)
    return f"{low} and up" if high >= 2**31 - 1 else f"{low} to {high}"


def main(arguments: list[str]) -> None:
    path = bundle().root / "docs" / "configuration.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    wanted = f"{before}{START}\n{tables()}\n\n{END}{after}"
    if "--check" not in arguments:
        write_atomically(path, wanted)
    elif text != wanted:
        raise SystemExit("docs/configuration.md is out of date: run python -m servekit.config.reference")


if __name__ == "__main__":
    main(sys.argv[1:])
