"""Finds and loads `export/<model>.py`, and says where in a user's own files a mistake is."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from servekit.errors import ConfigError, ExportError, Problem
from servekit.export.recipe import Model, Options, Recipe, Variant
from servekit.paths import Bundle

SHOW_ALL = "--traceback shows how Python came there"
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """A loaded recipe file."""

    name: str
    path: Path
    recipe: Recipe
    build: Callable[[Options], Model]


def names(bundle: Bundle) -> list[str]:
    return sorted(path.stem for path in bundle.recipes.glob("*.py") if not path.stem.startswith("_"))


def load(bundle: Bundle, name: str) -> Found:
    """Runs the file, which may import others of its folder (`_blocks.py`, whose underscore says that it is no recipe).

    Raises ExportError for an unknown name, ConfigError with the line where a file does not load.
    """
    known = names(bundle)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "servekit export --list shows the recipes"
        raise ExportError(f"{name}: there is no recipe export/{name}.py", hint=hint)
    path = bundle.recipes / f"{name}.py"
    if str(bundle.recipes) not in sys.path:
        sys.path.append(str(bundle.recipes))  # last: a recipe must not hide a package of its name
    module_name = f"servekit_recipe_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file can raise anything
        raise ConfigError([_problem(path, error)]) from error
    recipe, build = getattr(module, "RECIPE", None), getattr(module, "build", None)
    if not isinstance(recipe, Recipe) or not callable(build):
        message = "a recipe needs RECIPE (a Recipe) and build(options) -> Model"
        raise ConfigError([Problem(f"export/{name}.py", None, "", message)])
    return Found(name, path, recipe, build)


def mistake(path: Path, error: BaseException) -> ExportError:
    """What a recipe at `path` raised, with the last line on the way that is in its folder."""
    return ExportError(str(_problem(path, error)), hint=SHOW_ALL)


def _problem(path: Path, error: BaseException) -> Problem:
    folder = path.parent
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
        frames, text = [(Path(error.filename), error.lineno)], error.msg
    own = [(file, line) for file, line in frames if file.is_relative_to(folder)]
    file, line = own[-1] if own else (path, None)
    first = text.strip().splitlines()[0] if text.strip() else ""
    message = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return Problem(f"export/{file.relative_to(folder)}", line, "", message, SHOW_ALL)


def choose_variant(recipe: Recipe, model: str, version: int, wanted: str | None) -> str:
    """The variant's name, "" for a recipe without any. Raises ExportError when the choice is open or unknown."""
    known = [variant.name for variant in recipe.variants]
    if wanted is not None:
        if wanted not in known:
            raise ExportError(
                f"{model}: no variant {wanted}", hint=f"variants: {', '.join(known)}" if known else "it has no variants"
            )
        return wanted
    for variant in recipe.variants:
        if variant.version == version or len(known) == 1:
            return variant.name
    if not known:
        return ""
    raise ExportError(
        f"{model}: version {version} does not say which variant is meant ({_with_versions(recipe.variants)})",
        hint=f"servekit export {model} --version {version} --variant {known[0]}",
    )


def _with_versions(variants: Sequence[Variant]) -> str:
    return ", ".join(v.name if v.version is None else f"{v.name} is version {v.version}" for v in variants)


def next_version(recipe: Recipe, published: list[int]) -> int:
    """The lowest version that a variant names and that is not published, else one above the highest."""
    open_ones = [v.version for v in recipe.variants if v.version is not None and v.version not in published]
    return min(open_ones) if open_ones else max(published, default=0) + 1
