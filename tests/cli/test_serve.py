"""`servekit serve` as a command: nothing of its arguments is click's."""

from __future__ import annotations

import subprocess
import sys

import pytest


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servekit", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_is_the_servers_own_usage() -> None:
    done = serve("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: servekit serve\nFlags:\n\t--port=8500")
    assert "SERVEKIT_BIND_ADDRESS" in done.stdout


def test_version_names_the_server_it_behaves_as_and_tensorflow() -> None:
    done = serve("--version")
    assert done.returncode == 0
    assert "behaves as 2.19.1\nTensorFlow Library: 2." in done.stdout


@pytest.mark.parametrize("argument", ["-x", "--", "word", "-h"])
def test_arguments_reach_the_server_untouched(argument: str) -> None:
    done = serve(argument, "--port=not_a_number" if argument != "--" else "--port=1")
    assert done.returncode == 255
    if argument == "--":
        assert "unknown argument: --\nnor is this one known: --port=1\n" in done.stdout
    else:
        assert "Couldn't interpret value not_a_number for flag port." in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--port=0"],
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
        ),
        (
            ["--use_alts_credentials", "--ssl_config_file=x"],
            "Either use_alts_credentials must be false or ssl_config_file must be empty.",
        ),
    ],
)
def test_ports_and_credentials_are_checked_first(flags: list[str], message: str) -> None:
    done = serve(*flags)
    assert done.returncode == 255
    assert done.stdout == f"Failed to start server. Error: INVALID_ARGUMENT: {message}\n"


def test_without_a_model_it_says_so_before_tensorflow_is_there() -> None:
    done = serve("--port=1")
    assert done.returncode == 255
    assert done.stdout == (
        "Failed to start server. Error: INVALID_ARGUMENT: "
        "Both server_options.model_base_path and server_options.model_config_file are empty!\n"
    )
