"""Which servable a request means: TF Serving's ModelSpec without its protobuf."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """At most one of `version` and `version_label` is set; with neither, the highest AVAILABLE version is meant.

    An empty `version_label` is a label (TF Serving answers `Unrecognized servable version label: `), None is none.
    An empty `signature_name` means `serving_default`.
    """

    name: str
    version: int | None = None
    version_label: str | None = None
    signature_name: str = ""

    def rest_path(self) -> str:
        """`/v1/models/NAME[/versions/N|/labels/L]`, percent-encoded where TF Serving decodes."""
        from urllib.parse import quote

        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        if self.version_label is not None:
            return f"{path}/labels/{quote(self.version_label, safe='')}"
        return path
