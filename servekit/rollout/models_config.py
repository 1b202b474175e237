"""models.config back to the models of serving.yaml, to continue from what a server was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from servekit.config.models import Latest, Model, Specific
from servekit.errors import ServekitError
from servekit.protos import messages


def read(path: Path, models: Path) -> dict[str, Model]:
    """Entries by name; base paths as serving.yaml writes them, given where its models/ is.

    Empty where there is no file. Raises ServekitError for a file that is no ModelServerConfig.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ServekitError(f"{path}: cannot be read: {error}") from None
    try:
        config: Any = text_format.Parse(text, messages.ModelServerConfig())
    except text_format.ParseError as error:
        raise ServekitError(f"{path}: {error}", hint="write it again: servekit render") from None
    return {entry.name: _model(entry, models.absolute()) for entry in config.model_config_list.config}


def _model(entry: Any, models: Path) -> Model:
    policy = entry.model_version_policy
    versions: Any = Latest(latest=max(policy.latest.num_versions, 1))
    if policy.HasField("specific") and policy.specific.versions:
        versions = Specific(specific=tuple(policy.specific.versions))
    elif policy.HasField("all"):
        versions = "all"
    return Model(versions=versions, labels=dict(entry.version_labels), base_path=_base_path(entry, models))


def _base_path(entry: Any, models: Path) -> str | None:
    folder = Path(entry.base_path)
    if not folder.is_relative_to(models):
        return str(folder)
    relative = str(folder.relative_to(models))
    return None if relative == entry.name else relative
