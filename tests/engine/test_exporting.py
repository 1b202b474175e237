from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from servekit.config.serving import Serving
from servekit.engine.exporting import Missing, export_all, missing_versions
from servekit.errors import EngineError
from servekit.paths import Bundle


def bundle_with(root: Path, *published: str, recipes: Sequence[str] = ("m",)) -> Bundle:
    here = Bundle(root)
    here.recipes.mkdir(parents=True)
    for recipe in recipes:
        (here.recipes / f"{recipe}.py").touch()
    for version in published:
        folder = here.models / version
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
    return here


def missing(here: Bundle, **model: Any) -> list[tuple[str, int]]:
    serving = Serving.model_validate({"models": {"m": model}})
    return [(one.model, one.version) for one in missing_versions(serving, here, lambda _name: [1, 2, 3])]


@pytest.mark.parametrize(
    ("published", "model", "expected"),
    [
        ((), {"versions": {"specific": [1, 2]}}, [("m", 1), ("m", 2)]),
        (("m/1",), {"versions": {"specific": [1, 2]}}, [("m", 2)]),
        (("m/1", "m/2"), {"versions": {"specific": [1, 2]}}, []),
        ((), {"versions": {"latest": 2}}, [("m", 2), ("m", 3)]),
        ((), {"versions": "all"}, [("m", 1), ("m", 2), ("m", 3)]),
        (("m/7",), {"versions": {"latest": 2}}, []),
        (("m/7",), {"versions": "all", "labels": {"stable": 5}}, [("m", 5)]),
        ((), {"base_path": "/somewhere/else"}, []),
    ],
)
def test_missing_versions_are_those_that_the_policy_and_labels_name(
    tmp_path: Path, published: tuple[str, ...], model: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    assert missing(bundle_with(tmp_path, *published), **model) == expected


def test_a_half_copied_folder_is_missing(tmp_path: Path) -> None:
    here = bundle_with(tmp_path)
    (here.models / "m" / "1").mkdir(parents=True)
    assert missing(here, versions={"specific": [1]}) == [("m", 1)]


def test_a_model_without_recipe_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    here = bundle_with(tmp_path, recipes=())
    with pytest.raises(EngineError, match=r"models/m/1 is missing and there is no recipe export/m\.py"):
        missing(here, versions={"specific": [1]})
    assert str(Missing("m", 1)) == "m version 1"


@pytest.mark.slow
def test_an_export_that_loses_the_first_interrupt_still_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bundle_with(tmp_path, recipes=())
    monkeypatch.setenv("SERVEKIT_HOME", str(tmp_path))
    listening, ended = tmp_path / "listening", tmp_path / "ended"
    (here.recipes / "deaf.py").write_text(
        f"""import pathlib, time
pathlib.Path({str(listening)!r}).touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    pass
try:
    time.sleep(60)
finally:
    pathlib.Path({str(ended)!r}).touch()
"""
    )
    (here.recipes / "broken.py").write_text(
        f"""import pathlib, time
while not pathlib.Path({str(listening)!r}).exists():
    time.sleep(0.05)
raise ValueError("no weights")
"""
    )
    with pytest.raises(EngineError, match=r"broken version 1 could not be exported: .*no weights"):
        export_all([Missing("deaf", 1), Missing("broken", 1)], lambda _line: None)
    assert ended.exists()
