"""Templates to protobuf text, YAML and shell: strings are escaped, texts parsed back and held against their meaning."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from google.protobuf import text_encoding, text_format

from servekit.config.load import shown_path
from servekit.errors import ConfigError, Problem


class _Quoted(str):
    """A string that went through the filter `text` or `word`."""

    __slots__ = ()


def quoted(value: str) -> str:
    """A string literal of protobuf's text format, quotes included; UTF-8 stays readable.

    YAML's double-quoted strings read it the same where it is printable ASCII.
    """
    return _Quoted(f'"{text_encoding.CEscape(value.encode(), as_utf8=True)}"')


def shell_word(value: object) -> str:
    """One word of a shell's command line."""
    return _Quoted(shlex.quote(str(value)))


def _printed(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return str(list(value))
    if isinstance(value, (int, _Quoted)):
        return str(value)
    raise TypeError(f"{value!r} is printed without the filter `text` or `word`")


class Templates:
    """config/templates/NAME.j2, one for each NAME that is rendered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = jinja2.Environment(  # noqa: S701 - not HTML; `text` escapes, `_printed` insists on it
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            finalize=_printed,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters |= {"text": quoted, "word": shell_word}

    def render(self, name: str, meant: Any, **values: Any) -> str:
        """The text of template NAME.j2, which is sure to say `meant`. Raises ConfigError about the template."""
        text = self._filled(name, values)
        try:
            said = text_format.Parse(text, type(meant)())
        except text_format.ParseError as error:
            raise self._error(name, None, f"does not render to {meant.DESCRIPTOR.name}: {error}") from None
        if said != meant:
            raise self._error(name, None, f"renders to another {meant.DESCRIPTOR.name} than the settings mean")
        return text

    def render_yaml(self, name: str, meant: Any, **values: Any) -> str:
        """The same for a template of YAML and the lists, mappings and scalars that it means."""
        text = self._filled(name, values)
        try:
            said = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise self._error(name, None, f"does not render to YAML: {error}") from None
        if said != meant:
            raise self._error(name, None, "renders to something else than the settings mean")
        return text

    def render_shell(self, name: str, meant: Sequence[str], **values: Any) -> str:
        """The same for a template of a shell script and words that it has one after another."""
        text = self._filled(name, values)
        try:
            said = shlex.split(text, comments=True)
        except ValueError as error:
            raise self._error(name, None, f"does not render to a shell script: {error}") from None
        if not any(said[place : place + len(meant)] == list(meant) for place in range(len(said))):
            raise self._error(name, None, "renders to something else than the settings mean")
        return text

    def _filled(self, name: str, values: dict[str, Any]) -> str:
        try:
            return self._environment.get_template(f"{name}.j2").render(**values)
        except jinja2.TemplateNotFound:
            raise self._error(name, None, "does not exist", "git checkout brings it back") from None
        except jinja2.TemplateSyntaxError as error:
            raise self._error(name, error.lineno, error.message or "syntax error") from None
        except (jinja2.TemplateError, TypeError) as error:
            raise self._error(name, None, str(error)) from None

    def _error(self, name: str, line: int | None, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError([Problem(shown_path(self._folder / f"{name}.j2"), line, "", message, hint)])
