"""serving.yaml against the model folders: refuse what makes TF Serving wait for ever, mention what it will miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from servekit.config.bundle import check_folders
from servekit.config.folders import published_versions
from servekit.config.load import typed
from servekit.config.source import parse
from servekit.errors import ConfigError


def publish(models: Path, name: str, *versions: object) -> None:
    for version in versions:
        folder = models / name / str(version)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()


def check(models: Path, text: str, *, allow_missing: bool = False) -> list[str]:
    source = parse(text, "serving.yaml")
    return [str(problem) for problem in check_folders(typed(source), source, models, allow_missing=allow_missing)]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


IMAGENET = "models:\n  imagenet:\n    versions: {specific: [1, 2]}\n    labels: {stable: 1}\n"


def test_all_there_is_no_word(models: Path) -> None:
    publish(models, "imagenet", 1, 2)
    assert check(models, IMAGENET) == []


def test_a_model_without_a_folder_is_refused_with_the_command_that_makes_one(models: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        check(models, IMAGENET)
    assert str(raised.value) == (
        "serving.yaml:2: models.imagenet: models/imagenet does not exist: TF Serving would wait for it for ever\n"
        "hint: servekit export imagenet --version 1"
    )


def test_a_folder_without_versions_is_refused(models: Path) -> None:
    (models / "imagenet" / "not_a_version").mkdir(parents=True)
    with pytest.raises(ConfigError, match="models/imagenet has no version: TF Serving would wait"):
        check(models, IMAGENET)


def test_a_half_copied_version_is_none(models: Path) -> None:
    publish(models, "imagenet", 1)
    (models / "imagenet" / "2" / "variables").mkdir(parents=True)
    assert published_versions(models / "imagenet") == {1}


def test_none_of_the_wanted_versions_there_is_refused(models: Path) -> None:
    publish(models, "imagenet", 7)
    with pytest.raises(ConfigError, match=r"serving\.yaml:3: models\.imagenet\.versions: none of the versions is in"):
        check(models, IMAGENET)


def test_one_missing_version_is_a_warning(models: Path) -> None:
    publish(models, "imagenet", 1)
    assert check(models, IMAGENET) == [
        "serving.yaml:3: models.imagenet.versions.specific[1]: version 2 is not in models/imagenet; it will be served "
        "once it is there"
    ]


def test_a_label_at_a_missing_version_is_refused(models: Path) -> None:
    publish(models, "imagenet", 2)
    with pytest.raises(ConfigError) as raised:
        check(models, IMAGENET)
    assert str(raised.value) == (
        "serving.yaml:4: models.imagenet.labels.stable: points at version 1, which is not in models/imagenet\n"
        "hint: servekit export imagenet --version 1"
    )


def test_a_version_that_cannot_be_read_is_not_called_missing(models: Path) -> None:
    """A link to itself stands for a folder without permission, which root could read all the same."""
    publish(models, "imagenet", 2)
    (models / "imagenet" / "1").symlink_to("1")
    with pytest.raises(ConfigError) as raised:
        check(models, IMAGENET)
    assert str(raised.value) == (
        "serving.yaml:4: models.imagenet.labels.stable: points at version 1, but models/imagenet/1 cannot be read: "
        "Too many levels of symbolic links\nhint: ls -ld models/imagenet models/imagenet/1"
    )
    assert check(models, IMAGENET.replace("stable: 1", "stable: 2")) == [
        "serving.yaml:3: models.imagenet.versions.specific[0]: models/imagenet/1 cannot be read: Too many levels of "
        "symbolic links"
    ]


@pytest.mark.parametrize(
    ("policy", "served"), [("{latest: 1}", "10, by latest 1"), ("{latest: 2}", "3, 10, by latest 2")]
)
def test_a_label_at_a_version_below_the_latest_is_refused(models: Path, policy: str, served: str) -> None:
    publish(models, "vit", 1, 2, 3, 10)
    with pytest.raises(ConfigError, match=rf"points at version 1, which is not served \(versions: {served}\)"):
        check(models, f"models: {{vit: {{versions: {policy}, labels: {{old: 1}}}}}}")


def test_a_label_at_any_version_on_disk_is_fine_with_all(models: Path) -> None:
    publish(models, "vit", 1, 3)
    assert check(models, "models: {vit: {versions: all, labels: {old: 1}}}") == []
    with pytest.raises(ConfigError, match=r"version 2, which is not in models/vit\n"):
        check(models, "models: {vit: {versions: all, labels: {old: 2}}}")


def test_zeros_in_front_of_a_version_folder_do_not_matter(models: Path) -> None:
    publish(models, "imagenet", "001", "2")
    assert check(models, IMAGENET) == []


def test_a_base_path_is_looked_at_in_its_own_place(models: Path, tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "vit", 1)
    assert check(models, f"models: {{vit: {{base_path: {tmp_path}/elsewhere/vit}}}}") == []
    with pytest.raises(ConfigError, match="hint: publish a version in shared/vit"):
        check(models, "models: {vit: {base_path: shared/vit}}")


def test_everything_missing_is_a_warning_when_asked_for(models: Path) -> None:
    [warning] = check(models, IMAGENET, allow_missing=True)
    assert "models/imagenet does not exist" in warning


def test_every_missing_model_is_named_at_once(models: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        check(models, "models:\n  a: {}\n  b: {}\n")
    assert [problem.line for problem in raised.value.problems] == [2, 3]
