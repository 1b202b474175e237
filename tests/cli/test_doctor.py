"""`servekit doctor` as a person types it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from servekit.doctor.checks import CHECKS
from tests.doctor.homes import Home, codes

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_fresh_bundle_has_no_errors_and_every_check_says_what_it_saw(home: Home) -> None:
    document = home.doctor()
    assert document["healthy"], document["findings"]
    assert [check["name"] for check in document["checks"]] == list(CHECKS)
    seen = {check["name"]: check["looked_at"] for check in document["checks"]}
    assert seen["versions"] == ["half_plus_two 1, 2"]
    assert seen["config"] == ["serving.yaml with 1 model(s)"]
    assert f"{home.grpc_port} free, {home.rest_port} free" in seen["ports"] or shutil.which("docker")


def test_errors_come_with_place_remedy_and_exit_status_1(home: Home) -> None:
    shutil.rmtree(home.model / "2" / "variables")
    done = home.servekit("doctor", "--only", "versions")
    assert done.returncode == 1
    assert "error models/half_plus_two/2: has no variables/" in done.stdout
    assert "[versions.no-variables]" in done.stdout
    assert "do: copy it again" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 error"
    assert done.stderr == ""


def test_the_json_document_has_the_documented_shape(home: Home) -> None:
    shutil.rmtree(home.model / "2" / "variables")
    document = home.doctor("--only", "versions,config")
    assert set(document) == {"healthy", "counts", "findings", "checks"}
    assert document["counts"] == {"error": 1, "warning": 0, "note": 0}
    (finding,) = document["findings"]
    assert set(finding) == {"check", "code", "severity", "place", "message", "remedy"}
    assert (finding["check"], finding["code"], finding["severity"]) == ("versions", "versions.no-variables", "error")
    assert [set(check) for check in document["checks"]] == [{"name", "about", "seconds", "looked_at"}] * 2


def test_a_model_can_be_looked_at_alone(home: Home) -> None:
    shutil.copytree(home.model, home.bundle.models / "other")
    shutil.rmtree(home.bundle.models / "other" / "1" / "variables")
    assert "versions.no-variables" in codes(home.doctor("--only", "versions"))
    assert home.doctor("--only", "versions", "half_plus_two")["findings"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "version"), "version is no check; there are config, versions"),
        (("--only", ","), "names no check"),
        (("no_such_model",), "no_such_model is neither in serving.yaml nor in models/; there are half_plus_two"),
        (("--log", "no/such/file"), "no/such/file is no file"),
        (("--log", "-", "half_plus_two"), "--log looks at the log alone"),
        (("--engine", "podman"), "'podman' is not one of"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_message_and_exit_status_2(home: Home, arguments: tuple[str, ...], message: str) -> None:
    done = home.servekit("doctor", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_a_log_is_explained_from_a_file_and_from_stdin(home: Home) -> None:
    line = (
        "2026-11-22 03:19:45.123456: E tensorflow_serving/model_servers/server.cc:421] PollFilesystemAndReloadConfig "
        "failed to ReloadConfig: Request to assign label to version 3 of model a, which is not currently available for "
        "inference\n"
    )
    log = home.root / "server.log"
    log.write_text(line)
    from_file = home.servekit("doctor", "--log", str(log), "--json")
    from_stdin = home.servekit("doctor", "--log", "-", "--json", input=line.encode())
    assert from_file.returncode == from_stdin.returncode == 1
    (finding,) = json.loads(from_file.stdout)["findings"]
    (again,) = json.loads(from_stdin.stdout)["findings"]
    assert finding["code"] == again["code"] == "log.label-not-available"
    assert finding["place"] == f"{log}:1"
    assert "a label of a was moved to version 3" in finding["message"]


def test_mistakes_in_serving_yaml_do_not_hide_other_findings(home: Home) -> None:
    home.configure("models: {half_plus_two: {version: all}}")
    (home.model / "1" / "saved_model.pb").unlink()
    document = home.doctor()
    assert {"config.mistake", "versions.no-saved-model"} <= codes(document)


def test_without_docker_everything_else_is_looked_at(home: Home, tmp_path: Path) -> None:
    document = home.doctor(environment={"PATH": str(tmp_path)})
    assert document["healthy"], document["findings"]
    assert "docker.missing" in codes(document)
    assert "docker.missing" in codes(home.doctor("--engine", "docker", environment={"PATH": str(tmp_path)}))
    meant = home.servekit("doctor", "--engine", "docker", "--only", "docker", environment={"PATH": str(tmp_path)})
    assert meant.returncode == 1


def test_an_engine_that_does_not_answer_takes_no_longer_than_one_that_does(home: Home, tmp_path: Path) -> None:
    """A real command line, if there is one, pointed at nobody."""
    document = home.doctor("--only", "docker", environment={"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"})
    assert ("docker.engine-down" if shutil.which("docker") else "docker.missing") in codes(document)
    assert max(check["seconds"] for check in document["checks"]) < 8


def test_names_of_folders_cannot_write_to_the_terminal(home: Home) -> None:
    (home.model / "3\n\x1b[31m[red]").mkdir()
    done = home.servekit("doctor", "--only", "versions")
    assert "warning models/half_plus_two/3??[31m[red]: TF Serving ignores it" in done.stdout
    assert len(done.stdout.splitlines()) == 5


def test_checks_are_listed_with_what_they_look_at(home: Home) -> None:
    done = home.servekit("doctor", "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CHECKS)


def test_remedies_name_the_command_as_it_was_started(home: Home) -> None:
    environment = {"SERVEKIT_COMMAND": "./scripts/servekit"}
    done = home.servekit("doctor", "--only", "rendered", environment=environment)
    assert "do: ./scripts/servekit render" in done.stdout


def test_nothing_is_changed_by_looking(home: Home) -> None:
    def everything() -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in home.root.rglob("*")}

    before = everything()
    home.doctor()
    assert everything() == before


def test_tensorflow_is_not_imported(home: Home) -> None:
    seconds = home.servekit("doctor", "--only", "versions", environment={"PYTHONPROFILEIMPORTTIME": "1"}).stderr
    assert "servekit.doctor" in seconds
    assert "tensorflow.python" not in seconds
    assert os.fspath("keras") not in seconds
