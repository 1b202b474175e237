from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from servekit.engine import preflight
from servekit.errors import EngineError

ANYWHERE = ("127.0.0.1", 0)


def test_free_ports_pass() -> None:
    preflight.check_ports("127.0.0.1", {"port": preflight.free_port("127.0.0.1")})


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named_with_its_owner_and_the_option(address: str) -> None:
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineError) as error:
            preflight.check_ports("127.0.0.1", {"rest-api-port": port})
    assert str(port) in error.value.message
    assert str(error.value.hint).startswith("take another one: servekit up --rest-api-port ")
    if sys.platform.startswith("linux"):
        assert f"(pid {os.getpid()})" in error.value.message


def test_a_port_that_another_grpc_server_would_share_counts_as_taken() -> None:
    with socket.create_server(ANYWHERE, reuse_port=True) as taken, pytest.raises(EngineError, match="is in use"):
        preflight.check_ports("127.0.0.1", {"port": taken.getsockname()[1]})


def test_both_protocols_need_a_port_of_their_own() -> None:
    with pytest.raises(EngineError, match="need different ports"):
        preflight.check_ports("127.0.0.1", {"port": 9000, "rest-api-port": 9000})


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(EngineError, match=f"{host} is no address of this machine"):
        preflight.check_ports(host, {"port": preflight.free_port("127.0.0.1")})


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    preflight.check_disk(tmp_path, 1)
    with pytest.raises(EngineError, match=r"disk almost full: \d+ MB free"):
        preflight.check_disk(tmp_path, 10**9)
