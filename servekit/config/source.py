"""YAML text to plain values, keeping where each of them was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from servekit.config.section import KeyPath
from servekit.errors import ConfigError, Problem

# YAML 1.2's core schema, as editors read it: 010, 1_000 and 1:30 are no numbers, yes and off are no booleans.
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {"null", "bool", "int", "float", "str", "timestamp", "value", "merge"}
MAX_DEPTH = 64  # libyaml's composer recurses; a file nested without end would end the process
MAX_NODES = 500_000  # what aliases of aliases may add up to


@dataclass(frozen=True, slots=True)
class Source:
    """One YAML file. `value` has mappings with text keys, lists and scalars; `line(path)` counts from 1."""

    file: str
    value: Any
    root: yaml.Node | None
    problems: tuple[Problem, ...] = ()
    """Keys that are given twice; the first counts."""

    def line(self, path: KeyPath) -> int | None:
        """Where the key (or list item) at `path` is written, or the nearest thing around it."""
        node, line = self.root, 1 if self.root is None else _line(self.root)
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            line, node = _line(found[0]), found[1]
        return line

    def problem(self, path: KeyPath, message: str, hint: str | None = None) -> Problem:
        return Problem(self.file, self.line(path), dotted(path), message, hint)


def dotted(path: KeyPath) -> str:
    """`models.vit.versions.specific[1]`; keys that would be misread in it are quoted: `models["v1.5"]`."""
    return "".join(f".{part}" if _plain(part) else f"[{json.dumps(part)}]" for part in path).removeprefix(".")


def _plain(part: str | int) -> bool:
    return isinstance(part, str) and re.fullmatch(r"[^\s.\[\]\"]+", part) is not None


def _line(part: yaml.Node | yaml.Event) -> int:
    return 1 if part.start_mark is None else int(part.start_mark.line) + 1


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in _entries(node):
            if key.value == part:
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


class _EndlessError(Exception):
    """Aliases that contain themselves, or that are nested as if they did."""


def _entries(node: yaml.MappingNode, depth: int = 0) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The mapping's own entries, then those that `<<: *anchor` merges into it."""
    if depth > MAX_DEPTH:
        raise _EndlessError
    for key, value in node.value:
        if not _is_merge(key):
            yield key, value
    for other in _merged(node):
        if isinstance(other, yaml.MappingNode):
            yield from _entries(other, depth + 1)


def _merged(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    for key, value in node.value:
        if _is_merge(key):
            yield from value.value if isinstance(value, yaml.SequenceNode) else [value]


def _is_merge(key: yaml.Node) -> bool:
    return bool(key.tag == f"{_TAG}merge")


def parse(text: str, file: str) -> Source:
    """Raises ConfigError: not YAML, a key given twice, a tag, an alias that contains itself, an empty file."""
    try:
        _refuse_depth(text, file)
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, text, file)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([Problem(file, line, "", "has a control character, which YAML does not allow")]) from None
    if root is None:
        hint = "it needs at least `models:`; see docs/configuration.md"
        raise ConfigError([Problem(file, None, "", "has no content", hint)])
    reader = _Reader(file)
    try:
        value = reader.read(root, ())
    except _EndlessError:
        raise ConfigError([Problem(file, None, "", "has an alias (*NAME) that contains itself")]) from None
    if reader.problems:
        raise ConfigError(reader.problems)
    return Source(file, value, root, tuple(reader.twice))


def _refuse_depth(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError([Problem(file, _line(event), "", f"is nested over {MAX_DEPTH} levels")])
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    context = f" ({error.context})" if error.context else ""
    line = "" if mark is None else text.split("\n")[mark.line : mark.line + 1]
    hint = "indent with spaces, not with tabs" if line and line[0].lstrip(" ").startswith("\t") else None
    return Problem(file, mark.line + 1 if mark else None, "", f"is not YAML: {error.problem}{context}", hint)


class _Reader:
    """Nodes to values; collects every problem instead of stopping at the first."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.twice: list[Problem] = []
        self.nodes = 0

    def refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.file, _line(node), dotted(path), message))

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError([Problem(self.file, None, "", "is too large (aliases of aliases?)")])
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if len(path) > MAX_DEPTH:
            raise _EndlessError
        if not node.tag.startswith(_TAG):
            self.refuse(node, path, f"the tag {node.tag} means nothing here")
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.mapping(node, path)

    def mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        assert isinstance(node, yaml.MappingNode)
        result: dict[str, Any] = {}
        own: dict[str, int] = {}
        for other in _merged(node):
            if not isinstance(other, yaml.MappingNode):
                self.refuse(other, path, "<< takes a mapping, or a list of mappings")
        for key, value in _entries(node):
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, path, "a key should be a word")
                continue
            name = key.value
            line = _line(key)
            if name in own and any(key is entry for entry, _ in node.value):
                message = f"is given twice, first on line {own[name]}"
                self.twice.append(Problem(self.file, line, dotted((*path, name)), message))
            elif name not in own:
                own[name] = line
                result[name] = self.read(value, (*path, name))
        return result

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text = node.value
        if kind not in _PLAIN_TAGS:
            return self.refuse(node, path, f"the tag {node.tag} means nothing here")
        if kind == "null":
            return None
        if kind == "bool":
            return _BOOLS.get(text, text)
        if kind == "int" and _INT.fullmatch(text) and len(text) < 40:
            return int(text)
        if kind == "float":
            try:
                return float(text)
            except ValueError:
                return text
        return text
