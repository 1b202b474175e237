"""The flags every engine gets."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
import yaml

from servekit.config.extra_flags import ALL_FLAGS
from servekit.config.flags import server_flags
from servekit.config.load import typed
from servekit.config.source import parse
from servekit.errors import ConfigError


def flags(**sections: object) -> list[str]:
    serving = typed(parse(yaml.safe_dump({"models": {"a": {}}} | sections), "x"))
    return server_flags(serving, rendered=PurePosixPath("/etc/tfs"), port=8500, rest_api_port=8501)


def test_the_defaults_are_these() -> None:
    assert flags() == [
        "--port=8500",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=30000",
        "--model_config_file=/etc/tfs/models.config",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/etc/tfs/monitoring.config",
        "--grpc_max_threads=1024",
        "--num_load_threads=2",
        "--num_unload_threads=2",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=5000000",
        "--enable_profiler=false",
        "--enable_batching=true",
        "--batching_parameters_file=/etc/tfs/batching.config",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=-1",
    ]


def test_without_batching_its_file_is_not_named() -> None:
    assert not [flag for flag in flags(batching={"enabled": False}) if "batching" in flag]


def test_a_number_of_cores_sizes_the_pools_and_leaves_room_for_calls_that_wait() -> None:
    given = flags(server={"cpus": 3})
    assert given[-1] == "--rest_api_num_threads=12"
    assert "--grpc_max_threads=1024" in given


def test_the_sessions_pools_can_be_given_or_left_to_tensorflow() -> None:
    def pools(**server: int) -> list[str]:
        return [flag.removeprefix("--tensorflow_") for flag in flags(server=server) if "_op_" in flag]

    assert pools(tensorflow_intra_op_parallelism=4) == ["intra_op_parallelism=4", "inter_op_parallelism=-1"]
    assert pools(tensorflow_inter_op_parallelism=2) == ["intra_op_parallelism=1", "inter_op_parallelism=2"]
    assert pools(tensorflow_intra_op_parallelism=0) == []
    with pytest.raises(ConfigError, match="does not take up without a number of intra-op threads"):
        pools(tensorflow_intra_op_parallelism=0, tensorflow_inter_op_parallelism=-1)


def test_further_flags_are_added_and_win() -> None:
    more = {"rest_api_num_threads": 9, "grpc_max_threads": 64, "enable_model_warmup": False}
    given = flags(server={"cpus": 1, "flags": more})
    assert "--rest_api_num_threads=9" in given
    assert "--grpc_max_threads=64" in given
    assert "--grpc_max_threads=1024" not in given
    assert "--rest_api_num_threads=4" not in given
    assert given[-1] == "--enable_model_warmup=false"


def test_every_flag_is_one_of_the_servers_and_none_comes_twice() -> None:
    names = [flag.removeprefix("--").split("=")[0] for flag in flags(server={"cpus": 2})]
    assert set(names) <= ALL_FLAGS
    assert len(names) == len(set(names))


def test_each_of_the_servers_flags_has_one_place() -> None:
    """48 flags, the same from 2.19.1 on: each has a key, may stand under server.flags, or is refused with a reason."""
    assert len(ALL_FLAGS) == 48


@pytest.mark.parametrize("server", [{}, {"cpus": 1}], ids=["auto", "one core"])
def test_rest_never_gets_a_single_thread(server: dict[str, int]) -> None:
    """With --rest_api_num_threads=1 TF Serving answers no REST request at all."""
    assert "--rest_api_num_threads=1" not in flags(server=server)
