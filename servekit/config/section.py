"""What every section of serving.yaml has in common: strict types, no unknown keys, findings of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

INT64_MAX = 2**63 - 1

KeyPath = tuple[str | int, ...]
Auto = Literal["auto"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with values that have the right types. `path` is relative to the section that found it."""

    path: KeyPath
    message: str
    hint: str | None = None

    def under(self, *parent: str | int) -> Finding:
        return Finding((*parent, *self.path), self.message, self.hint)


class Section(BaseModel):
    """Frozen and strict: `"1"` is no number, `yes` is no bool, a key that nobody reads is an error."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    def findings(self) -> Iterator[Finding]:
        """Rules that span several keys, or say more than a range; called only when every type is right."""
        return iter(())


def shown(value: Any) -> str:
    """A value near enough to how it was written, and short: `"3"`, `[1, 2]`, `true`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_int(value: Any, minimum: int, maximum: int = INT64_MAX) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


@dataclass(frozen=True)
class Either:
    """Annotation for "this or that": one error, `should be {expected}, is ...`, where a union reports each member."""

    expected: str
    accepts: Callable[[Any], bool]
    json_schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            value = tuple(value) if isinstance(value, list) else value
            if not self.accepts(value):
                text = f"should be {self.expected}, is {shown(value)}"
                raise PydanticCustomError("either", "{text}", {"text": text})
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.json_schema)


MAX_CORES = 1024
AutoCores = Annotated[
    int | Auto,
    Either(
        f"auto or a whole number from 1 to {MAX_CORES}",
        lambda value: value == "auto" or is_int(value, 1, MAX_CORES),
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_CORES}]},
    ),
]
