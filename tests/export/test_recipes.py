from __future__ import annotations

from pathlib import Path

import pytest

from servekit.errors import ConfigError, ExportError
from servekit.export import recipes
from servekit.export.recipe import Recipe, Variant
from servekit.paths import Bundle

GOOD = """
from servekit.export.recipe import Recipe
RECIPE = Recipe("A model", "MIT", "https://example.org")
def build(options):
    raise NotImplementedError
"""
TWO = Recipe("Two", "MIT", "https://example.org", (Variant("a", "first", 1), Variant("b", "second", 2)))


def bundle_with(root: Path, **files: str) -> Bundle:
    (root / "export").mkdir()
    for name, text in files.items():
        (root / "export" / f"{name}.py").write_text(text)
    return Bundle(root)


def test_every_file_that_is_not_private_is_a_recipe(tmp_path: Path) -> None:
    assert recipes.names(bundle_with(tmp_path, b=GOOD, a=GOOD, _private=GOOD)) == ["a", "b"]


def test_an_unknown_model_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no recipe export/imagnet\.py") as caught:
        recipes.load(bundle_with(tmp_path, imagenet=GOOD), "imagnet")
    assert caught.value.hint == "did you mean imagenet?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef (", r"export/bad\.py:2: SyntaxError"),
        ("\n\nimport no_such_module\n", r"export/bad\.py:3: ModuleNotFoundError: .*no_such_module"),
        ("raise SystemExit(3)", r"export/bad\.py:1: SystemExit: 3"),
        ("raise KeyboardInterrupt.__class__()", r"export/bad\.py:1: TypeError"),
        ("import math\n\nassert math.pi == 3", r"export/bad\.py:3: AssertionError\n"),
        ("RECIPE = 3", r"export/bad\.py: a recipe needs RECIPE"),
    ],
    ids=["syntax", "import", "exit", "type", "no text", "no recipe"],
)
def test_a_file_that_does_not_load_is_shown_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.load(bundle_with(tmp_path, bad=text), "bad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\ndef (", r"^export/_shared_syntax\.py:3: SyntaxError: "),
        ("\nimport no_such_module", r"^export/_shared_import\.py:2: ModuleNotFoundError: "),
        ("from json import nothing", r"^export/_shared_name\.py:1: ImportError: cannot import name 'nothing'"),
        ("import json\n\njson.loads('{')", r"^export/_shared_error\.py:3: JSONDecodeError: "),
    ],
    ids=["syntax", "import", "name", "error"],
)
def test_a_mistake_in_a_file_that_a_recipe_imports_is_shown_in_that_file(
    tmp_path: Path, text: str, message: str
) -> None:
    shared = message.split("/")[1].split("\\")[0]
    bundle = bundle_with(tmp_path, **{"bad": f"# a recipe\nfrom {shared} import blocks", shared: text})
    with pytest.raises(ConfigError, match=message) as caught:
        recipes.load(bundle, "bad")
    assert caught.value.problems[0].hint == "--traceback shows how Python came there"


def test_recipes_share_code_in_a_file_whose_name_begins_with_an_underscore(tmp_path: Path) -> None:
    shared = "TITLE = 'A shared title'"
    recipe = GOOD.replace('"A model"', "TITLE").replace("\nRECIPE", "\nfrom _shared_title import TITLE\nRECIPE")
    bundle = bundle_with(tmp_path, good=recipe, _shared_title=shared)
    assert recipes.names(bundle) == ["good"]
    assert recipes.load(bundle, "good").recipe.title == "A shared title"


def test_a_recipe_may_have_dots_in_its_name(tmp_path: Path) -> None:
    assert recipes.load(bundle_with(tmp_path, **{"v1.5": GOOD}), "v1.5").name == "v1.5"


@pytest.mark.parametrize(
    ("version", "wanted", "chosen"), [(1, None, "a"), (2, None, "b"), (7, "a", "a"), (1, "b", "b")]
)
def test_the_version_chooses_the_variant_unless_one_is_given(version: int, wanted: str | None, chosen: str) -> None:
    assert recipes.choose_variant(TWO, "m", version, wanted) == chosen


def test_a_version_that_no_variant_has_needs_a_variant() -> None:
    with pytest.raises(ExportError, match=r"version 7 .*a is version 1, b is version 2") as caught:
        recipes.choose_variant(TWO, "m", 7, None)
    assert caught.value.hint == "servekit export m --version 7 --variant a"


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match="no variant c") as caught:
        recipes.choose_variant(TWO, "m", 1, "c")
    assert caught.value.hint == "variants: a, b"


@pytest.mark.parametrize(("published", "following"), [([], 1), ([1], 2), ([2], 1), ([1, 2], 3), ([1, 2, 9], 10)])
def test_the_next_version_is_the_first_open_one(published: list[int], following: int) -> None:
    assert recipes.next_version(TWO, published) == following
