"""Flags and files that TF Serving 2.19.1 was seen to crash on, hang on, or ignore."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from servekit.config.flags import server_flags
from servekit.config.load import load
from servekit.config.render import render
from servekit.doctor import settings
from servekit.doctor.finding import Finding, Severity
from servekit.doctor.settings import SettingsFacts
from servekit.engine import state
from servekit.engine.state import EngineState
from tests.conftest import ROOT

GOOD = (
    "--model_config_file=/w/models.config",
    "--model_config_file_poll_wait_seconds=1",
    "--rest_api_port=8501",
    "--allow_version_labels_for_unavailable_models=true",
    "--num_load_threads=2",
    "--enable_profiler=false",
    "--max_num_load_retries=1",
    "--monitoring_config_file=/w/monitoring.config",
)
MODELS = 'model_config_list { config { name: "a" base_path: "/w/a" model_platform: "tensorflow" %s } }'
LABELS = 'version_labels { key: "stable" value: 1 }'
MONITORING = 'prometheus_config { enable: true path: "/m" }'


def judged(
    *more: str,
    without: str = "",
    models: str | None = MODELS % LABELS,
    batching: str | None = None,
    monitoring: str | None = MONITORING,
    release: tuple[int, ...] = (),
) -> list[Finding]:
    arguments = (*(flag for flag in GOOD if not without or without not in flag), *more)
    files = {"model_config_file": models, "monitoring_config_file": monitoring}
    if any("batching_parameters_file" in flag for flag in arguments):
        files["batching_parameters_file"] = batching
    return list(settings.judge(SettingsFacts("server", arguments, files, release)))


def codes(findings: list[Finding]) -> list[str]:
    return [found.code.removeprefix("settings.") for found in findings]


def test_what_servekit_passes_is_no_finding(tmp_path: Path) -> None:
    serving = load(ROOT / "config" / "serving.yaml")
    flags = server_flags(serving, rendered=tmp_path, port=8500, rest_api_port=8501)
    texts = render(serving, models=tmp_path, templates=ROOT / "config" / "templates")
    files = {
        "model_config_file": texts["models.config"],
        "batching_parameters_file": texts["batching.config"],
        "monitoring_config_file": texts["monitoring.config"],
    }
    assert list(settings.judge(SettingsFacts("server", tuple(flags), files, (2, 21)))) == []


def test_good_flags_are_no_finding() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("--rest_api_num_threads=1", "one-rest-thread"),
        ("--enable_serialization_as_tensor_content=true", "tensor-content"),
        ("--enable_serialization_as_tensor_content", "tensor-content"),
        ("--port=8501", "same-ports"),
        ("--file_system_poll_wait_seconds=0", "looks-once"),
        ("--use_alts_credentials=true", "alts"),
        ("--enable_batching=yes", "bad-value"),
        ("--num_unload_threads=two", "bad-value"),
    ],
)
def test_a_flag_that_crashes_or_hangs_is_an_error(flag: str, code: str) -> None:
    (found,) = judged(flag)
    assert (found.code, found.severity) == (f"settings.{code}", Severity.ERROR)


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("--enable_per_model_batching_parameters=true", "no-effect"),
        ("--num_tflite_pools=2", "no-effect"),
        ("--no_such_flag=1", "ignored-argument"),
        ("--model_nme=a", "ignored-argument"),
        ("extra", "ignored-argument"),
        ("-port=9000", "ignored-argument"),
        ("--model_name=b", "no-effect"),
        ("--port=8500", None),
        ("--rest_api_num_threads=2", None),
        ("--enable_batching", None),
    ],
)
def test_a_flag_that_does_nothing_is_said(flag: str, code: str | None) -> None:
    assert codes(judged(flag)) == ([code] if code else [])


def test_flags_that_need_another_one_do_nothing_without_it() -> None:
    assert codes(judged("--rest_api_timeout_in_ms=1000", without="rest_api_port")) == ["no-metrics", "no-effect"]
    assert codes(judged("--enable_model_warmup=false", "--num_request_iterations_for_warmup=3")) == ["no-effect"]
    assert judged("--num_request_iterations_for_warmup=3") == []
    batching = judged("--enable_batching", "--enable_per_model_batching_parameters")
    assert codes(batching) == ["per-model-batching"]


def test_flags_that_the_embedded_server_only_accepts() -> None:
    facts = SettingsFacts("server", (*GOOD, "--mixed_precision=bfloat16"), {}, embedded=True)
    (found,) = settings.judge(facts)
    assert (found.code, found.severity) == ("settings.no-effect", Severity.NOTE)
    assert "mixed_precision: without effect in the embedded server" in found.message


def test_a_flag_written_with_a_space_loses_its_value() -> None:
    name, value = judged("--port", "9000")
    assert "--port: ignored (only --flag=value counts)" in name.message
    assert name.remedy == "write --port=VALUE in one word"
    assert "9000: ignored" in value.message


def test_a_flag_given_twice_is_a_note() -> None:
    assert codes(judged("--port=8500", "--port=8600")) == ["flag-twice"]


@pytest.mark.parametrize(
    ("without", "code"),
    [
        ("poll_wait", "no-poll"),
        ("allow_version_labels", "labels-at-start"),
        ("num_load_threads", "no-load-threads"),
        ("enable_profiler", "profiler"),
        ("rest_api_port", "no-metrics"),
        ("max_num_load_retries", "long-retries"),
    ],
)
def test_a_flag_that_is_missing(without: str, code: str) -> None:
    assert codes(judged(without=without)) == [code]


def test_labels_are_no_matter_where_there_are_none() -> None:
    assert judged(without="allow_version_labels", models=MODELS % "") == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("max_batch_size { value: 32 }", None),
        ("max_batch_size { value: 0 }", "batch-size-zero"),
        ("max_batch_size { value: 8 } max_execution_batch_size { value: 16 }", "execution-size"),
        ("max_execution_batch_size { value: 2000 }", "execution-size"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4", "allowed-sizes"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 8", "allowed-sizes"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8", None),
        ("max_batch_size: 4", "file-broken"),
        ("max_batch_size { value: 4 } low_priority_max_batch_size { value: 4 }", "file-broken"),
        (None, "file-missing"),
    ],
)
def test_batching_files(text: str | None, code: str | None) -> None:
    found = judged("--enable_batching=true", "--batching_parameters_file=/w/batching.config", batching=text)
    assert codes(found) == ([code] if code else [])
    assert all(one.severity is Severity.ERROR for one in found)


def test_a_batching_file_without_the_switch() -> None:
    found = judged("--batching_parameters_file=/w/batching.config", batching="max_batch_size { value: 4 }")
    assert codes(found) == ["batching-off"]


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_a_bad_monitoring_file_keeps_rest_closed(text: str | None) -> None:
    (found,) = judged(monitoring=text)
    assert found.severity is Severity.ERROR
    assert "REST never opens" in found.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (MODELS % "logging_config { }", "logging-config"),
        ("model_config_list { config { name: 'a' } config { name: 'a' } }", "model-twice"),
        ("custom_model_config { }", "custom-model-config"),
        ("model_config_list { config { nome: 1 } }", "file-broken"),
    ],
    ids=["logging_config", "a model twice", "custom_model_config", "misspelt"],
)
def test_models_config_that_the_server_refuses(text: str, code: str) -> None:
    assert codes(judged(models=text)) == [code]


def test_a_flag_that_an_older_release_may_not_have() -> None:
    assert codes(judged("--mixed_precision=bfloat16", release=(2, 14, 1))) == ["flag-too-new"]
    assert judged("--mixed_precision=bfloat16", release=(2, 19, 1)) == []


def test_flags_of_a_real_process_and_the_files_that_they_name(tmp_path: Path) -> None:
    """Any program does: what counts is its command line."""
    (tmp_path / "models.config").write_text(MODELS % "")
    flags = [f"--model_config_file={tmp_path}/models.config", "--batching_parameters_file=/nowhere", "--wrong=ä"]
    program = [sys.executable, "-c", "import time; time.sleep(60)", *flags]
    process = subprocess.Popen(program)
    try:
        running = EngineState("native", process.pid, state.born(process.pid) or "", "", 1, 2, "", "", "")
        while (facts := settings.of_process(running)) is None:
            time.sleep(0.01)
        assert facts.arguments[-3:] == tuple(flags)
        assert facts.files == {"model_config_file": MODELS % "", "batching_parameters_file": None}
    finally:
        process.kill()
        process.wait()
    assert settings.of_process(running) is None
