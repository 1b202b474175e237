"""pydantic's errors in words for people who write YAML."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from servekit.config.models import POLICY
from servekit.config.section import KeyPath, shown
from servekit.config.serving import Serving
from servekit.config.source import Source, dotted
from servekit.errors import Problem

_EXPECTED = {
    "missing": "is missing",
    "int_type": "should be a whole number",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "float_type": "should be a number",
    "dict_type": "should be a mapping (key: value)",
    "model_type": "should be a mapping (key: value)",
    "tuple_type": "should be a list",
    "greater_than_equal": "should be at least {ge}",
    "less_than_equal": "should be at most {le}",
    "too_short": "should not be empty",
}


def from_pydantic(error: ValidationError, source: Source) -> Iterator[Problem]:
    details = error.errors(include_url=False)
    paths = [key_path(detail) for detail in details]
    for detail, path in zip(details, paths, strict=True):
        if detail["type"] == "too_short" and any(other[:-1] == path for other in paths):
            continue  # pydantic counts only the good items
        if detail["type"] == "extra_forbidden":
            yield source.problem(path, "is not a key that servekit knows", suggestion(path))
        else:
            yield source.problem(path, _message(detail), _hint(detail))


def key_path(detail: ErrorDetails) -> KeyPath:
    """Where in the YAML; pydantic's location also names the member of a union."""
    return tuple(part for part in detail["loc"] if not (isinstance(part, str) and part.startswith(POLICY)))


def _message(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "either":
        return detail["msg"]
    if kind not in _EXPECTED:
        return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, is {shown(detail['input'])}"
    text = _EXPECTED[kind].format(**detail.get("ctx", {}))
    return text if kind in {"missing", "too_short"} else f"{text}, is {shown(detail['input'])}"


def _hint(detail: ErrorDetails) -> str | None:
    value = detail["input"]
    if detail["type"] in {"model_type", "dict_type"} and value is None:
        return "write {} to take every default"
    if detail["type"] == "policy" and isinstance(value, list):
        return f"write {{specific: {shown(value)}}}"
    return None


def without_broken_parts(value: Any, error: ValidationError) -> Any:
    """The document without the models and sections that have errors, so that the others can be looked at further."""
    if not isinstance(value, dict):
        return value
    broken = {path[:2] if path[:1] == ("models",) else path[:1] for path in map(key_path, error.errors())}
    models = value["models"] if isinstance(value.get("models"), dict) else {}
    whole = {name: model for name, model in models.items() if ("models", name) not in broken}
    sections = {key: part for key, part in value.items() if (key,) not in broken}
    return sections | {"models": whole or {"none": {}}}


def suggestion(path: KeyPath) -> str:
    """Did-you-mean among the section's keys, else where else the key belongs, else all of the section's keys."""
    name, known = str(path[-1]), list(_keys_at(path[:-1]))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    for section, field in Serving.model_fields.items():
        if name in _keys(field.annotation):
            return f"did you mean {section}.{name}?"
    return f"{dotted(path[:-1]) or 'the file'} takes {', '.join(known)}"


def _keys_at(path: KeyPath) -> Iterator[str]:
    annotation: Any = Serving
    for part in path:
        annotation = _step(annotation, part)
    yield from _keys(annotation)


def _step(annotation: Any, part: str | int) -> Any:
    for kind in _members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            return kind.model_fields[str(part)].annotation
        if get_origin(kind) is dict or get_origin(kind) is Mapping:
            return get_args(kind)[1]
    return None


def _keys(annotation: Any) -> Iterator[str]:
    for kind in _members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
