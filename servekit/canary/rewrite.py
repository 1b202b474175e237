"""Changes of a YAML text that leave every other byte as it was: comments, order, quotes, line ends.

The parser tells where each value stands; only that place is written anew. (A round trip through a YAML library would
set the whole file in that library's style, and lose a comment with the key before it.) Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Path = tuple[str, ...]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_FLOW = ("versions",)
"""Keys whose mappings are written in one line, as people write them."""


def transfer(text: str, path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`text`, in which the mapping at `path` has `old`, with `new` instead: only what differs is touched."""
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _is_own(text, (*path, key)):
            text = transfer(text, (*path, key), before, value)
        elif value != before or key not in old:
            text = set_value(text, (*path, key), value)
    for key in old:  # last: a mapping whose only key went would go with it
        if key not in new:
            text = remove(text, (*path, key))
    return text


def set_value(text: str, path: Path, value: Any) -> str:
    """With `value` at `path`; what is missing on the way there is made. Raises KeyError when the way is no mapping."""
    node, parents = _compose(text), path
    for depth, key in enumerate(parents):
        found = _entry(node, key)
        if found is None:
            inner: Any = value
            for missing in reversed(path[depth + 1 :]):
                inner = {missing: inner}
            return _insert(text, node, key, inner, within=path[:depth])
        name, node = found
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and _grows(node, value):
        return _set_items(text, node, value)
    start = node.start_mark.index
    if start == node.end_mark.index:  # `key:` and nothing after it
        return f"{text[:start]} {inline(value)}{text[start:]}"
    if start < name.end_mark.index:  # `key: *alias`
        start = text.index("*", name.end_mark.index)
    elif isinstance(node, yaml.CollectionNode) and not node.flow_style:
        start = text.index(":", name.end_mark.index) + 1
        return f"{text[:start]} {inline(value)}{text[_end(text, name, node) :]}"
    return text[:start] + inline(value) + text[_end(text, name, node) :]


def remove(text: str, path: Path) -> str:
    """Without what is at `path`, and without mappings that it leaves empty. A merged (`<<`) value cannot be removed."""
    node = _compose(text)
    for key in path[:-1]:
        found = _entry(node, key)
        if found is None:
            return text
        node = found[1]
    if not isinstance(node, yaml.MappingNode) or _entry(node, path[-1]) is None:
        return text
    if len(node.value) == 1 and len(path) > 1:
        return remove(text, path[:-1])
    place = next(index for index, (key, _) in enumerate(node.value) if key.value == path[-1])
    key, value = node.value[place]
    if not node.flow_style:
        start = text.rindex("\n", 0, key.start_mark.index) + 1 if "\n" in text[: key.start_mark.index] else 0
        return text[:start] + text[_line_end(text, _end(text, key, value)) :]
    if place:
        return text[: _end(text, *node.value[place - 1])] + text[_end(text, key, value) :]
    if len(node.value) > 1:
        return text[: key.start_mark.index] + text[node.value[1][0].start_mark.index :]
    return text[: key.start_mark.index] + text[_end(text, key, value) :]


def inline(value: Any) -> str:
    """In flow style: `{specific: [1, 2]}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{inline(key)}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    return str(value) if isinstance(value, str) and _is_plain(value) else json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """A string without quotes, for every reader of YAML."""
    return bool(_PLAIN.fullmatch(text)) and text.lower() not in _WORDS and yaml.safe_load(text) == text


def _compose(text: str) -> yaml.Node:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    return node


def _entry(node: yaml.Node, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Its own, not a merged one: setting that makes an own one beside it."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return name, value
    return None


def _is_own(text: str, path: Path) -> bool:
    """Written there, and not merged (`<<`) from elsewhere."""
    node = _compose(text)
    for key in path:
        found = _entry(node, key)
        if found is None:
            return False
        node = found[1]
    return True


def _insert(text: str, node: yaml.Node, key: str, value: Any, *, within: Path) -> str:
    if not isinstance(node, yaml.MappingNode):
        if isinstance(node, yaml.ScalarNode) and node.start_mark.index == node.end_mark.index:
            return f"{text[: node.start_mark.index]} {inline({key: value})}{text[node.start_mark.index :]}"
        raise KeyError(".".join((*within, key)))
    if node.flow_style:
        entry = f"{inline(key)}: {inline(value)}"
        if node.value:
            end = _end(text, *node.value[-1])
            return f"{text[:end]}, {entry}{text[end:]}"
        start = node.start_mark.index + text[node.start_mark.index :].index("{") + 1
        return text[:start] + entry + text[start:]
    indent = node.value[0][0].start_mark.column
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = "".join(f"{' ' * indent}{line}{newline}" for line in _block(key, value))
    end = _line_end(text, _end(text, *node.value[-1]))
    before = text[:end] if text[:end].endswith("\n") else text[:end] + newline
    return before + lines + text[end:]


def _block(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and value and key not in _FLOW:
        return [f"{inline(key)}:", *(f"  {line}" for name, item in value.items() for line in _block(name, item))]
    return [f"{inline(key)}: {inline(value)}"]


def _grows(node: yaml.SequenceNode, wanted: Any) -> bool:
    """Some items may go, and others come after those that stay."""
    if not isinstance(wanted, (list, tuple)) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return False
    had = [yaml.safe_load(item.value) for item in node.value]
    kept = [value for value in had if value in wanted]
    return bool(kept) and [*kept, *(value for value in wanted if value not in had)] == list(wanted)


def _set_items(text: str, node: yaml.SequenceNode, wanted: Sequence[Any]) -> str:
    """A list with a line for each item: new items at its end, each in a line like the last one's."""
    had = [yaml.safe_load(item.value) for item in node.value]
    last = node.value[-1]
    start = text.rfind("\n", 0, last.start_mark.index) + 1
    newline = "\r\n" if "\r\n" in text else "\n"
    prefix = text[start : last.start_mark.index]
    added = "".join(f"{prefix}{inline(value)}{newline}" for value in wanted if value not in had)
    end = _line_end(text, last.end_mark.index)
    separator = "" if text[:end].endswith("\n") or not added else newline
    text = text[:end] + separator + added + text[end:]
    for value, item in reversed(list(zip(had, node.value, strict=True))):
        if value not in wanted:
            begin = text.rfind("\n", 0, item.start_mark.index) + 1
            text = text[:begin] + text[_line_end(text, item.end_mark.index) :]
    return text


def _end(text: str, key: yaml.Node, value: yaml.Node) -> int:
    """Where the entry's last character is; block collections are reported to end where the next thing begins."""
    if value.start_mark.index < key.end_mark.index:  # an alias: the node stands elsewhere
        alias = re.compile(r"[^*]*\*[^\s,\]}]+").match(text, key.end_mark.index)
        return alias.end() if alias else int(key.end_mark.index)
    if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
        return _end(text, *value.value[-1])
    if isinstance(value, yaml.SequenceNode) and not value.flow_style and value.value:
        return _end(text, key, value.value[-1])
    return int(value.end_mark.index)


def _line_end(text: str, index: int) -> int:
    """Behind the line's newline; where a block scalar ended with it already, there."""
    if index and text[index - 1] == "\n":
        return index
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1
