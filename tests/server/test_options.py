from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from servekit.server.options import Options, Parsed, parse, usage, without_effect

FLAGS = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name
model_base_path num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file
tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file
platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file
remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool
enable_signature_method_name_check xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
thread_pool_factory_config_file mixed_precision skip_initialize_tpu enable_grpc_healthcheck_service
enable_serialization_as_tensor_content
"""
"""Of tensorflow_model_server 2.19.1, in the order of its usage."""


def test_all_flags_of_tensorflow_model_server_are_known_and_no_others() -> None:
    assert [field.name for field in dataclasses.fields(Options)] == FLAGS.split()


def test_defaults_are_those_of_tensorflow_model_server() -> None:
    options = Options()
    assert (options.port, options.rest_api_port, options.model_name) == (8500, 0, "default")
    assert (options.max_num_load_retries, options.load_retry_interval_micros) == (5, 60_000_000)
    assert options.file_system_poll_wait_seconds == 1
    assert options.saved_model_tags == "serve"
    assert options.enable_model_warmup is True


def test_values_come_after_an_equal_sign() -> None:
    parsed = parse(["--port=9", "--model_name=a=b", "--per_process_gpu_memory_fraction=0.5", "--model_base_path="])
    assert parsed.options == Options(port=9, model_name="a=b", per_process_gpu_memory_fraction=0.5)
    assert not parsed.unknown
    assert not parsed.errors


def test_the_last_of_several_wins() -> None:
    assert parse(["--port=1", "--port=2"]).options.port == 2


@pytest.mark.parametrize(
    "argument", ["--enable_batching", "--enable_batching=true", "--enable_batching=TRUE", "--enable_batching=1"]
)
def test_a_bool_may_stand_alone(argument: str) -> None:
    assert parse([argument]).options.enable_batching is True


def test_a_bool_can_be_switched_off() -> None:
    assert parse(["--enable_model_warmup=false"]).options.enable_model_warmup is False


def test_what_a_2_19_1_makes_of_odd_values() -> None:
    """Tried on `tsl::Flags::Parse` of TensorFlow 2.19.1 (xla/tsl/util/command_line_flags.cc)."""
    assert parse(["--enable_model_warmup=False"]).options.enable_model_warmup is False
    assert parse(["--enable_model_warmup=0"]).options.enable_model_warmup is False
    assert parse(["--enable_batchingg", "--versionfoo=true"]).unknown == ("--enable_batchingg", "--versionfoo=true")
    assert parse(["--version=x"]).errors == ("Couldn't interpret value x for flag version.",)
    assert parse(["--per_process_gpu_memory_fraction=0x1p-1"]).options.per_process_gpu_memory_fraction == 0.5


@pytest.mark.parametrize(
    "argument",
    [
        "--enable_batching=yes",
        "--enable_batching=t",
        "--enable_batching=",
        "--port=word",
        "--port=",
        "--port=1 ",
        "--port=1.5",
        "--port=0x10",
        "--load_retry_interval_micros=1e6",
        "--per_process_gpu_memory_fraction=half",
    ],
)
def test_a_value_that_does_not_fit_is_an_error(argument: str) -> None:
    assert parse([argument]) == Parsed(Options(), errors=parse([argument]).errors)
    assert parse([argument]).errors


def test_an_int32_wraps_as_sscanf_does() -> None:
    assert parse([f"--port={2**32 + 5}"]).options.port == 5


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["--no_such_flag=1"], ("--no_such_flag=1",)),
        (["--port", "9"], ("--port", "9")),
        (["-port=9"], ("-port=9",)),
        (["word"], ("word",)),
        (["--", "--port=9"], ("--", "--port=9")),
        (["--model_name", "a"], ("--model_name", "a")),
    ],
)
def test_what_is_not_understood_is_left_over(arguments: list[str], unknown: tuple[str, ...]) -> None:
    parsed = parse(arguments)
    assert parsed.unknown == unknown
    assert parsed.options == Options()
    assert not parsed.errors


def test_help_counts_only_as_the_first_unknown_argument() -> None:
    assert parse(["--port=1", "--help"]).wants_help
    assert not parse(["word", "--help"]).wants_help


def test_flags_without_effect_are_named_only_when_they_were_changed() -> None:
    assert without_effect(parse(["--enable_profiler=true", "--prefer_tflite_model"]).options) == ["prefer_tflite_model"]


def test_usage_lists_every_flag() -> None:
    text = usage("servekit serve")
    assert text.startswith("usage: servekit serve\nFlags:\n")
    assert all(f"--{field.name}=" in text for field in dataclasses.fields(Options))


def test_the_documentation_lists_the_flags_without_effect() -> None:
    text = (Path(__file__).parents[2] / "docs" / "embedded_server.md").read_text()
    listed = text.partition("Flags that are accepted without effect")[2].partition("\n\n")[0]
    without = {field.name for field in dataclasses.fields(Options) if not field.metadata["effect"]}
    assert set(re.findall(r"`(\w+)`", listed)) == without
