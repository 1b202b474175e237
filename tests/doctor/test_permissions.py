"""Real modes, owners and links; the reader is the container's user, or this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.doctor import permissions
from servekit.doctor.finding import Finding, Severity
from servekit.doctor.permissions import PermissionFacts
from tests.doctor.homes import Home

CONTAINER = "10001:10001"


def look(home: Home, user: str | None = CONTAINER) -> list[Finding]:
    facts = permissions.gather([home.bundle.models], home.root, user=user)
    return [
        found for found in permissions.judge(facts) if found.code not in ("permissions.umask", "permissions.selinux")
    ]


def codes(findings: list[Finding]) -> list[str]:
    return [found.code.removeprefix("permissions.") for found in findings]


def test_files_that_everybody_may_read_are_no_finding(home: Home) -> None:
    home.bundle.models.chmod(0o755)
    assert look(home) == []


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("", 0o700),
        ("half_plus_two/2", 0o700),
        ("half_plus_two/2/variables", 0o744),
        ("half_plus_two/2/saved_model.pb", 0o600),
    ],
)
def test_what_the_container_s_user_may_not_read_is_an_error(home: Home, path: str, mode: int) -> None:
    (home.bundle.models / path).chmod(mode)
    (found,) = look(home)
    assert (found.code, found.severity, found.remedy) == (
        "permissions.closed",
        Severity.ERROR,
        "chmod -R a+rX models",
    )
    assert f"user 10001 of the container may not read {Path('models') / path}" in found.message


def test_the_remedy_cures_it(home: Home) -> None:
    home.model.chmod(0o700)
    (home.model / "2" / "saved_model.pb").chmod(0o600)
    (found,) = look(home)
    assert found.remedy is not None
    assert os.waitstatus_to_exitcode(os.system(f"cd {home.root} && {found.remedy}")) == 0
    assert look(home) == []


def test_owner_and_group_count(home: Home) -> None:
    path = home.model / "2" / "saved_model.pb"
    path.chmod(0o600)
    assert look(home, f"{path.stat().st_uid}:1") == []
    path.chmod(0o640)
    assert look(home, f"10001:{path.stat().st_gid}") == []
    assert codes(look(home)) == ["closed"]


def test_root_in_a_container_has_no_powers_there_and_on_this_machine_it_has(home: Home) -> None:
    path = home.model / "2" / "saved_model.pb"
    path.chmod(0o000)
    assert codes(look(home, "0:0")) == ["closed"]
    assert codes(look(home, None)) == ([] if os.geteuid() == 0 else ["closed"])


def test_a_link_inside_the_folder_holds_in_a_mount_and_others_do_not(home: Home) -> None:
    (home.model / "3").symlink_to("2")
    assert look(home) == []
    (home.model / "4").symlink_to(home.model / "2")
    (found,) = look(home)
    assert (found.code, found.severity) == ("permissions.link-outward", Severity.ERROR)
    assert "models/half_plus_two/4" in found.message
    (on_this_machine,) = look(home, None)
    assert on_this_machine.severity is Severity.NOTE


def test_a_link_out_of_the_folder(home: Home) -> None:
    (home.root / "store").mkdir()
    (home.model / "3").symlink_to("../../store")
    assert codes(look(home)) == ["link-outward"]


def test_a_link_to_nothing(home: Home) -> None:
    (home.model / "3").symlink_to("gone")
    assert codes(look(home)) == ["link-dangling"]


def test_hidden_folders_are_nobody_s_business(home: Home) -> None:
    (home.bundle.models / ".staging").mkdir(mode=0o700)
    assert look(home) == []


@pytest.mark.parametrize(("umask", "found"), [(0o022, []), (0o002, []), (0o077, ["umask"]), (0o027, ["umask"])])
def test_a_umask_that_closes_copied_files(umask: int, found: list[str]) -> None:
    assert codes(list(permissions.judge(PermissionFacts((), "", True, umask)))) == found
    assert list(permissions.judge(PermissionFacts((), "", False, umask))) == []


def test_the_umask_of_this_process_is_read_and_left_alone() -> None:
    before = os.umask(0o027)
    try:
        assert permissions.gather([], Path(), user=None).umask == 0o027
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_enforcing_selinux_is_a_note_for_containers() -> None:
    facts = PermissionFacts((), "", True, 0o022, selinux_enforcing=True)
    assert codes(list(permissions.judge(facts))) == ["selinux"]


def test_a_tree_without_end_is_left_after_a_while(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "SECONDS", -1.0)
    assert codes(look(home)) == ["too-large"]
