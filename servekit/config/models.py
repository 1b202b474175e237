"""Section `models`: which versions of which model are served, and which of them a label means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from servekit.config.canary import Canary
from servekit.config.section import INT64_MAX, Finding, Section, shown

# /, : and an empty name cannot stand in TF Serving's REST paths (`[^/:]+`); the others need percent-encoding there.
NAME = re.compile(r"[^/:?#%\s\x00-\x20\x7f]+")
NAME_RULE = "may not be empty or contain / : ? # % or white space: REST paths carry it"
NAMED: dict[str, Any] = {"propertyNames": {"pattern": r"^[^/:?#%\s]+$"}}
POLICY = "policy: "  # in front of the tags of the union below, unlike any name
UINT32_MAX = 2**32 - 1

Version = Annotated[int, Field(ge=0, le=INT64_MAX)]


class Latest(Section):
    """`{latest: N}`: the N highest version folders."""

    latest: Annotated[int, Field(ge=1, le=UINT32_MAX)]
    """How many of the highest versions are served."""

    def __str__(self) -> str:
        return f"latest {self.latest}"


class Specific(Section):
    """`{specific: [N, ...]}`: exactly these version folders."""

    specific: Annotated[tuple[Version, ...], Field(min_length=1, strict=False)]
    """The version numbers that are served."""

    def findings(self) -> Iterator[Finding]:
        for index, version in enumerate(self.specific):
            if version in self.specific[:index]:
                yield Finding(("specific", index), f"version {version} is listed twice")

    def __str__(self) -> str:
        return f"specific {list(self.specific)}"


def _policy(value: Any) -> str | None:
    if value == "all":
        return f"{POLICY}all"
    keys = set(value) if isinstance(value, dict) else {type(value).__name__.lower()}
    return f"{POLICY}{keys.pop()}" if len(keys) == 1 and keys <= {"latest", "specific"} else None


VersionPolicy = Annotated[
    Annotated[Literal["all"], Tag(f"{POLICY}all")]
    | Annotated[Latest, Tag(f"{POLICY}latest")]
    | Annotated[Specific, Tag(f"{POLICY}specific")],
    Discriminator(
        _policy,
        custom_error_type="policy",
        custom_error_message="should be all, {latest: N} or {specific: [N, ...]}",
    ),
]


NEEDS_LABEL = "needs a version with label"
"""What a section `canary` says that nobody has started yet."""


class Model(Section):
    versions: VersionPolicy = Latest(latest=1)
    """Version policy: `all`, `{latest: N}` (the N highest) or `{specific: [N, ...]}`."""

    labels: Annotated[dict[str, Version], Field(json_schema_extra=NAMED)] = Field(default_factory=dict)
    """Names for versions, as in `/v1/models/NAME/labels/stable:predict`. Edit a number here to move a label."""

    canary: Canary | None = None
    """How much of the unlabelled traffic the canary gets, and what decides about it (docs/canary.md)."""

    base_path: str | None = None
    """Folder that holds the version folders, if it is not models/NAME: relative to models/, or absolute (then the
    container has to mount it at the same place)."""

    def findings(self) -> Iterator[Finding]:
        if isinstance(self.versions, Specific):
            yield from (finding.under("versions") for finding in self.versions.findings())
        for label, version in self.labels.items():
            if not NAME.fullmatch(label):
                yield Finding(("labels", label), f"the label {NAME_RULE}")
            if isinstance(self.versions, Specific) and version not in self.versions.specific:
                yield unserved_label(label, version, self.versions.specific)
        if self.canary is not None:
            yield from self._canary_findings(self.canary)
        if self.base_path is not None:
            yield from _base_path_findings(self.base_path)

    def _canary_findings(self, canary: Canary) -> Iterator[Finding]:
        yield from (finding.under("canary") for finding in canary.findings())
        for label in ("stable", "canary"):
            if label not in self.labels and (canary.weight or canary.mirror or canary.auto):
                hint = "servekit canary start NAME --version N sets all that a roll-out needs"
                yield Finding(("canary",), f"{NEEDS_LABEL} {label}", hint)

    def folder(self, name: str, models: PurePath) -> PurePath:
        """The base path: where TF Serving looks for version folders, given where `models/` is on its side."""
        return models / (self.base_path or name)


def unserved_label(label: str, version: int, served: tuple[int, ...], policy: str = "") -> Finding:
    """`policy` is named where it, and not the file, decides which versions are served."""
    numbers = " or ".join(map(str, served)) or "a version that is served"
    listed = ", ".join(map(str, served)) or "none"
    return Finding(
        ("labels", label),
        f"points at version {version}, which is not served (versions: {listed}{policy and ', by ' + policy})",
        f"point {label} at {numbers}, or serve version {version} as well",
    )


def _base_path_findings(base_path: str) -> Iterator[Finding]:
    path = ("base_path",)
    if "://" in base_path:
        yield Finding(path, f"is a URL ({shown(base_path)}); TF Serving's images read local folders only",
                      "copy the versions into models/ first")  # fmt: skip
    elif not base_path.strip() or any(character < " " for character in base_path):
        yield Finding(path, f"should be a folder, is {shown(base_path)}")
    elif ".." in PurePosixPath(base_path).parts:
        yield Finding(path, f"may not contain .., is {shown(base_path)}", "write an absolute path")


def name_finding(name: str) -> Finding | None:
    """A model's name is a REST path segment and, unless base_path is given, a folder of models/."""
    if not NAME.fullmatch(name):
        return Finding((name,), f"a model's name {NAME_RULE}")
    if name in {".", ".."}:
        return Finding((name,), "a model's name cannot be a relative folder")
    return None
