"""Where the bundle's folders are; the only module that knows their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """A clone of this repository, or a folder laid out like one."""

    root: Path

    @property
    def serving_yaml(self) -> Path:
        """The file people edit."""
        return self.root / "config" / "serving.yaml"

    @property
    def serving_schema(self) -> Path:
        """JSON schema of serving.yaml, for editors; generated."""
        return self.root / "config" / "serving.schema.json"

    @property
    def templates(self) -> Path:
        return self.root / "config" / "templates"

    @property
    def rendered(self) -> Path:
        """models.config and the files beside it, with this machine's paths (native and embedded engines)."""
        return self.root / "config" / "rendered"

    @property
    def rendered_container(self) -> Path:
        """The same files with the container's paths (`/models/...`); Compose mounts this folder."""
        return self.rendered / "container"

    @property
    def models(self) -> Path:
        """`models/<name>/<version>/`, the model server's base paths."""
        return self.root / "models"

    @property
    def recipes(self) -> Path:
        """`export/<model>.py`, one recipe a model."""
        return self.root / "export"

    @property
    def samples(self) -> Path:
        """Photographs with a known answer."""
        return self.root / "export" / "samples"

    @property
    def state(self) -> Path:
        """What a running engine writes: its process, ports, logs. Git-ignored."""
        return self.root / ".servekit"

    @property
    def staging(self) -> Path:
        """Where versions are built before one rename moves them into `models`; same file system, never served."""
        return self.state / "staging"


def bundle() -> Bundle:
    """The folder in SERVEKIT_HOME, else the one this package lies in."""
    home = os.environ.get("SERVEKIT_HOME")
    return Bundle(Path(home).resolve() if home else Path(__file__).resolve().parent.parent)
