"""Lines as TensorFlow Serving 2.19.1, TensorFlow and Docker write them, each with its cause."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from servekit.doctor import log
from servekit.doctor.finding import Finding, Severity
from servekit.doctor.known_lines import KNOWN_LINES
from servekit.doctor.log import LogFacts

START = "Failed to start server. Error: "
FAILED = START + "UNKNOWN: 1 servable(s) did not become available: {{{name: a version: 1} due to error: "
PARSING = (
    "[libprotobuf ERROR external/com_google_protobuf/src/google/protobuf/text_format.cc:337] Error parsing text-format "
)

# Code, line (after its time, level and place), and what the finding has to name.
LINES: list[tuple[str, str, str]] = [
    (
        "label-at-start",
        START
        + "FAILED_PRECONDITION: Request to assign label to version 1 of model a, which is not currently available "
        "for inference",
        "model a starts with a label",
    ),
    (
        "label-not-available",
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Request to assign label to version 9 of model a, "
        "which is "
        "not currently available for inference",
        "version 9",
    ),
    (
        "models-config-unreadable",
        "Failed to read ModelServerConfig file: Invalid protobuf file: '/w/models.config'",
        "'/w",
    ),
    (
        "models-config-unreadable",
        "Failed to read ModelServerConfig file: /w/models.config; Invalid argument",
        "Invalid",
    ),
    (
        "models-config-empty",
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Cannot transition to requested config. It is only "
        "legal to "
        "transition from one ModelConfigList to another.",
        "no model at all",
    ),
    ("models-config-empty", "Taking no action for empty config.", "no model at all"),
    (
        "model-listed-twice",
        START + "INVALID_ARGUMENT: Illegal to list model a multiple times in config list",
        "a twice",
    ),
    (
        "relative-path",
        START + "INVALID_ARGUMENT: Expected model a to have an absolute path or URI; got base_path()=models/a",
        "models/a of a",
    ),
    ("platform", START + "INVALID_ARGUMENT: Model a requests unsupported platform pytorch", "model_platform"),
    ("logging-config", START + "INVALID_ARGUMENT: No request-logger-creator provided.", "logging_config"),
    ("custom-model-config", "ModelServer does not yet support custom model config.", "custom_model_config"),
    (
        "text-format",
        PARSING + 'tensorflow.serving.BatchingParameters: 1:17: Expected "{", found "4".',
        'BatchingParameters file has a mistake in line 1, column 17: Expected "{", found "4"',
    ),
    (
        "text-format",
        PARSING + 'tensorflow.serving.MonitoringConfig: 1:9: Message type "tensorflow.serving.MonitoringConfig" has no '
        'field named "nonsense".',
        "MonitoringConfig",
    ),
    (
        "no-base-path",
        "FileSystemStoragePathSource encountered a filesystem access error: Could not find base path /models/b for "
        "servable "
        "b with error NOT_FOUND: /models/b not found",
        "/models/b of model b",
    ),
    (
        "no-versions",
        "No versions of servable a found under base path /models/a. Did you forget to name your leaf directory as a "
        "number "
        "(eg. '/1/')?",
        "no folder in /models/a",
    ),
    (
        "version-not-found",
        "Version 2 of servable a, which was requested to be served as a 'specific' version in the servable's version "
        "policy, was not found in the file system",
        "version 2 of a",
    ),
    (
        "same-version-twice",
        "Duplicate version directories detected. Version 7 will be loaded from 7, 007 will be ignored.",
        "7 and 007",
    ),
    (
        "no-saved-model",
        FAILED
        + "NOT_FOUND: Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        "`saved_model.pb`)",
        "no saved_model.pb",
    ),
    (
        "saved-model-cut",
        "Loading servable: {name: a version: 2} failed: DATA_LOSS: Can't parse /w/a/2/saved_model.pb as binary proto",
        "/w/a/2/saved_model.pb is cut off",
    ),
    (
        "saved-model-cut",
        FAILED.replace("version: 1", "version: 2") + "DATA_LOSS: Can't parse /w/a/2/saved_model.pb as binary proto}, }",
        "/w/a/2/saved_model.pb is cut off",
    ),
    (
        "wrong-tags",
        FAILED
        + "NOT_FOUND: Could not find meta graph def matching supplied tags: { serve }. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`}, }",
        "the tags serve",
    ),
    (
        "warmup",
        "Loading servable: {name: a version: 2} failed: DATA_LOSS: corrupted record at 0 (Is this even a TFRecord "
        "file?). "
        "Please verify your warmup data is in TFRecord format.",
        "warmup file",
    ),
    (
        "warmup",
        "Servable {name: a version: 2} cannot be loaded: INVALID_ARGUMENT: Failed to parse warmup record: \ufffd from "
        "/w/a/2/assets.extra/tf_serving_warmup_requests",
        "warmup file",
    ),
    (
        "no-variables",
        "OP_REQUIRES failed at resource_variable_ops.cc:697 : NOT_FOUND: Could not find variable fc/bias. This could "
        "mean "
        "that the variable has been deleted.",
        "the variable fc/bias,",
    ),
    (
        "data-loss",
        "Encountered an error for servable version {name: a version: 2}: Read less bytes than requested",
        "damaged",
    ),
    (
        "data-loss",
        "Loading servable: {name: a version: 2} failed: DATA_LOSS: Unable to open table file "
        "/w/a/2/variables/variables: "
        "not an sstable (bad magic number)",
        "damaged",
    ),
    ("gave-up", "Retrying of Loading servable: {name: a version: 2} exhausted max_num_retries: 3", "version 2 of a"),
    (
        "overwritten",
        "Loading servable: {name: a version: 1} failed: UNKNOWN: /w/a/1/variables/variables.index; Bad address",
        "overwritten in place",
    ),
    (
        "op-unknown",
        "Loading servable: {name: a version: 3} failed: NOT_FOUND: Op type not registered 'DecodeWebP' in binary "
        "running on "
        "6c2f8a. Make sure the Op and Kernel are registered in the binary running in this process.",
        "no op DecodeWebP",
    ),
    (
        "attribute-unknown",
        "Loading servable: {name: a version: 3} failed: INVALID_ARGUMENT: NodeDef mentions attr 'debug_name' not in "
        "Op<name="
        "VarHandleOp; signature= -> resource:resource>",
        "attribute debug_name",
    ),
    ("unknown-flag", "unknown argument: --no_such_flag=1", "ignores --no_such_flag=1"),
    (
        "no-model",
        START + "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!",
        "without --model_config_file",
    ),
    (
        "same-ports",
        "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. Skipped "
        "exporting HTTP/REST API.",
        "REST stays closed",
    ),
    (
        "port-taken",
        "Failed to bind to address 0.0.0.0:8500: Address already in use",
        "another process",
    ),
    (
        "batch-sizes",
        FAILED
        + "INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected "
        "8}, }",
        "ends in 4 and max_batch_size is 8",
    ),
    (
        "queue-full",
        "The batch scheduling queue to which this task was submitted is full; currently 1 batches enqueued and "
        "max_enqueued_batches is 1",
        "max_enqueued_batches",
    ),
    ("request-too-large", "Task size 1001 is larger than maximum input batch size 1000", "1001 rows"),
    ("no-batch-dimension", "Batching Run() input tensors must have at least one dimension", "leading batch dimension"),
    (
        "message-too-large",
        "RESOURCE_EXHAUSTED: Received message larger than max (8388722 vs. 4194304)",
        "takes at most 4194304 bytes and was sent 8388722",
    ),
    ("timeout", "Timed out waiting for notification", "rest_api_timeout_in_ms"),
    (
        "out-of-memory",
        "RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[256,64,112,112] and type float on "
        "/job:localhost/replica:0"
        "/task:0/device:GPU:0 by allocator GPU_0_bfc",
        "memory ran out",
    ),
    ("threads-exhausted", "Thread tf_Compute creation via pthread_create() failed.", "processes and threads"),
    ("grpc-exhausted", "RESOURCE_EXHAUSTED: Concurrent RPC limit exceeded", "grpc_max_threads"),
    ("too-many-files", "accept4: Too many open files", "open files"),
    ("read-only", "mkdir: cannot create directory '/var/cache/x': Read-only file system", "(/var/cache/x)"),
    ("read-only", "OSError: [Errno 30] Read-only file system: '/srv/x'", "read-only"),
    ("permission", "Failed to read ModelServerConfig file: /w/models.config; Permission denied", "models.config"),
    ("permission", "/bin/bash: /etc/servekit/start.sh: Permission denied", "/etc/servekit/start.sh"),
    ("illegal-instruction", "Illegal instruction (core dumped)", "AVX"),
    (
        "illegal-instruction",
        "The TensorFlow library was compiled to use AVX instructions, but these aren't available on your machine.",
        "AVX",
    ),
    (
        "gpu-driver-missing",
        'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]',
        "NVIDIA Container Toolkit",
    ),
    (
        "gpu-driver-old",
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.5, please update your driver to a "
        "newer "
        "version",
        "driver is too old",
    ),
    ("gpu-too-new", "INTERNAL: no kernel image is available for execution on the device", "this GPU's generation"),
    (
        "gpu-none",
        "failed call to cuInit: INTERNAL: CUDA error: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "sees no GPU",
    ),
    ("cpu-only", "Could not find cuda drivers on your machine, GPU will not be used.", "runs on the CPU"),
    (
        "harmless-cpu-flags",
        "This TensorFlow binary is optimized to use available CPU instructions in performance-critical operations.",
        "harmless",
    ),
    (
        "load-failed",
        "Loading servable: {name: a version: 2} failed: INVALID_ARGUMENT: Something new",
        "version 2 of a did not load: INVALID_ARGUMENT: Something new",
    ),
    ("start-failed", START + "UNKNOWN: something else", "the server ended: UNKNOWN: something else"),
]
WHERE = "2026-11-22 03:19:45.123456: E tensorflow_serving/model_servers/server.cc:421] "


def judged(*lines: str, live: bool = False, now: datetime | None = None) -> list[Finding]:
    return list(log.judge(LogFacts("server.log", lines, live, now)))


@pytest.mark.parametrize(
    ("code", "line", "names"), LINES, ids=[f"{code}-{at}" for at, (code, _, _) in enumerate(LINES)]
)
def test_a_known_line_is_explained(code: str, line: str, names: str) -> None:
    (found,) = judged("nothing of interest", WHERE + line)
    assert found.code == f"log.{code}"
    assert names in found.message
    assert line[:60] in found.message
    assert found.place == "server.log:2"
    assert found.remedy
    assert "{" not in found.remedy.replace("{ value: 32 }", "")


def test_every_known_line_has_an_example_here() -> None:
    assert {f"log.{code}" for code, _, _ in LINES} == {known.code for known in KNOWN_LINES}


def test_lines_of_a_server_that_is_well_are_no_findings() -> None:
    assert (
        judged(
            "2026-11-22 03:19:44.000001: I tensorflow_serving/model_servers/server_core.cc:474] Adding/updating "
            "models.",
            "2026-11-22 03:19:44.000002: I tensorflow_serving/model_servers/server_core.cc:603]  (Re-)adding model: a",
            "2026-11-22 03:19:45.000003: I external/org_tensorflow/tensorflow/cc/saved_model/loader.cc:236] Restoring "
            "SavedModel bundle.",
            "2026-11-22 03:19:45.000004: I tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc:80] No "
            "warmup "
            "data file found at /models/a/1/assets.extra/tf_serving_warmup_requests",
            "2026-11-22 03:19:45.000005: I tensorflow_serving/core/loader_harness.cc:95] Successfully loaded "
            "servable version "
            "{name: a version: 1}",
            "2026-11-22 03:19:45.000006: I tensorflow_serving/model_servers/server_core.cc:490] Finished "
            "adding/updating models",
            "2026-11-22 03:19:45.000007: I tensorflow_serving/model_servers/server.cc:406] Exporting HTTP/REST API at:"
            "localhost:8501 ...",
        )
        == []
    )


def test_a_line_that_comes_again_is_one_finding() -> None:
    line = WHERE + "Failed to read ModelServerConfig file: /w/models.config; No such file or directory"
    (found,) = judged(*[line] * 40)
    assert found.place == "server.log:1, 40 times to line 40"


def test_lines_about_different_models_are_different_findings() -> None:
    text = WHERE + "No versions of servable {0} found under base path /models/{0}. Did you forget to name"
    assert len(judged(text.format("a"), text.format("b"), text.format("a"))) == 2


def test_a_refused_reload_that_went_through_later_is_history() -> None:
    refused = WHERE + (
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Request to assign label to version 3 of model a, "
        "which is "
        "not currently available for inference"
    )
    done = (
        "2026-11-22 03:20:45.1: I tensorflow_serving/model_servers/server_core.cc:490] Finished adding/updating models"
    )
    assert judged(refused, done) == []
    assert [found.code for found in judged(done, refused)] == ["log.label-not-available"]


def test_a_load_that_succeeded_later_is_history() -> None:
    failed = (
        WHERE
        + "Loading servable: {name: a version: 2} failed: DATA_LOSS: Can't parse /w/a/2/saved_model.pb as binary proto"
    )
    loaded = WHERE + "Successfully loaded servable version {name: a version: 2}"
    assert judged(failed, loaded) == []
    assert len(judged(failed, loaded.replace("name: a", "name: b"))) == 1
    assert len(judged(failed, loaded.replace("version: 2}", "version: 21}"))) == 1


BEGUN = "2026-11-22 03:19:44.000001: I tensorflow_serving/model_servers/server_core.cc:474] Adding/updating models."
ADDING = "2026-11-22 03:19:44.000002: I tensorflow_serving/model_servers/server_core.cc:603]  (Re-)adding model: vit"


def test_a_reload_that_does_not_end_is_recognised() -> None:
    (found,) = judged(BEGUN, ADDING, live=True, now=datetime(2026, 11, 22, 3, 20))
    assert (found.code, found.severity) == ("log.reload-stuck", Severity.ERROR)
    assert "models: vit" in found.message


@pytest.mark.parametrize(
    ("lines", "now"),
    [
        ((BEGUN, ADDING), datetime(2026, 11, 22, 3, 19, 45)),
        ((BEGUN, ADDING, BEGUN.replace("Adding/", "Finished adding/")), datetime(2026, 11, 22, 9)),
        ((BEGUN, ADDING), None),
    ],
    ids=["just begun", "ended", "no later time"],
)
def test_a_reload_that_may_still_end_is_not(lines: tuple[str, ...], now: datetime | None) -> None:
    assert judged(*lines, now=now) == []


def test_a_log_that_goes_on_without_the_reload_s_end_is_stuck_too() -> None:
    later = "2026-11-22 03:29:44.000001: I tensorflow_serving/core/loader_harness.cc:95] Something else"
    assert [found.code for found in judged(BEGUN, ADDING, later)] == ["log.reload-stuck"]


def test_a_file_that_cannot_be_read_is_one_finding(tmp_path: Path) -> None:
    (found,) = log.judge(log.read_file(tmp_path))
    assert (found.code, found.severity) == ("log.unreadable", Severity.ERROR)


def test_bytes_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe\x00\n" + (WHERE + "Too many open files").encode() + b"\n\x80")
    assert [found.place for found in log.judge(log.read_file(path))] == [f"{path}:2"]


def test_a_log_cannot_write_to_the_terminal() -> None:
    (found,) = judged(WHERE + "Too many open files \x1b]0;title\x07\x1b[31m")
    assert found.message.isprintable()


def test_the_end_of_a_huge_log_is_read_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = (BEGUN + "\n" + ADDING + "\n" + BEGUN.replace("Adding/", "Finished adding/") + "\n").encode()
    path.write_bytes(line * (12 * 2**20 // len(line)) + (WHERE + "Too many open files\n").encode())
    assert [found.code for found in log.judge(log.read_file(path))] == ["log.too-many-files"]
