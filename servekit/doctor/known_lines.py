"""Lines of TensorFlow Serving's log (and of its container's), what they mean, and what to do.

The texts are those of TensorFlow Serving 2.19.1 and TensorFlow's own; the embedded server writes the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from servekit.doctor.finding import Severity


@dataclass(frozen=True, slots=True)
class KnownLine:
    """`cause` and `remedy` may use the pattern's groups, `{1}`. `cured_by`: a later line after which it is history."""

    code: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    severity: Severity = Severity.ERROR
    cured_by: str | None = None


_RELOADED = r"Finished adding/updating models"
_LOADED = r"Successfully loaded servable version \{{name: {model} version: {version}\}}"
_SERVABLE = r"\{name: (?P<model>\S+) version: (?P<version>\d+)\}"


def _line(
    code: str, pattern: str, cause: str, remedy: str, severity: Severity = Severity.ERROR, cured_by: str | None = None
) -> KnownLine:
    return KnownLine(f"log.{code}", re.compile(pattern), cause, remedy, severity, cured_by)


# The first that fits a line counts: the particular ones stand before those that fit many.
KNOWN_LINES: tuple[KnownLine, ...] = (
    _line(
        "permission",
        r"(?:([^\s:;'\"]+)['\"]?[:;] )?Permission denied",
        "the server's user may not read {1}",
        "servekit doctor --only permissions; chmod -R a+rX models config/rendered",
    ),
    # Labels and models.config.
    _line(
        "label-at-start",
        r"Failed to start server\. Error: FAILED_PRECONDITION: Request to assign label to version (\d+) of model "
        r"(\S+?),",
        "model {2} starts with a label, and no version is available yet at that moment",
        "start it with --allow_version_labels_for_unavailable_models (servekit always does)",
    ),
    _line(
        "label-not-available",
        r"Request to assign label to version (\d+) of model (\S+?), which is not currently available",
        "a label of {2} was moved to version {1} before that was AVAILABLE: the whole file is refused at every poll, "
        "for all "
        "models, and version {1} is never loaded by it",
        "servekit apply brings it about in steps; or put the label back, servekit render, and move it when version "
        "{1} is AVAILABLE",
        cured_by=_RELOADED,
    ),
    _line(
        "models-config-unreadable",
        r"Failed to read ModelServerConfig file: (.*)",
        "models.config is missing, empty or not parsable ({1}); the server goes on with the configuration before it",
        "servekit render",
        cured_by=_RELOADED,
    ),
    _line(
        "models-config-empty",
        r"Cannot transition to requested config|Taking no action for empty config",
        "models.config names no model at all; nothing is changed or served by it",
        "servekit render",
        cured_by=_RELOADED,
    ),
    _line(
        "model-listed-twice",
        r"Illegal to list model (\S+) multiple times in config list",
        "models.config has {1} twice",
        "servekit render (it writes each model once)",
        cured_by=_RELOADED,
    ),
    _line(
        "relative-path",
        r"Expected model (\S+) to have an absolute path or URI; got base_path\(\)=(.*)",
        "the base path {2} of {1} is relative",
        "servekit render (it writes absolute ones)",
        cured_by=_RELOADED,
    ),
    _line(
        "platform",
        r"requests unsupported platform (\S+)|Illegal setting neither ModelServerConfig::model_type",
        'a model\'s model_platform is not "tensorflow"',
        "servekit render",
        cured_by=_RELOADED,
    ),
    _line(
        "logging-config",
        r"No request-logger-creator provided",
        "models.config has a logging_config; tensorflow_model_server has no logger to go with it",
        "take it out: servekit render",
        cured_by=_RELOADED,
    ),
    _line(
        "custom-model-config",
        r"does not yet support custom model config",
        "models.config has a custom_model_config: the server aborts",
        "take it out: servekit render",
    ),
    _line(
        "text-format",
        r"Error parsing text-format tensorflow\.serving\.(\w+): (\d+):(\d+): (.*)",
        "the {1} file has a mistake in line {2}, column {3}: {4} (a bad monitoring file leaves REST closed, without "
        "an end)",
        "servekit render writes it anew; files of your own: fix that line (numbers are {{ value: 32 }}, lists are not)",
    ),
    # Version folders.
    _line(
        "no-base-path",
        r"Could not find base path (\S+) for servable (\S+)",
        "the folder {1} of model {2} is not there: no model gets new versions until it is, and a server that starts "
        "keeps "
        "all ports closed",
        "servekit export {2} --version 1, or take {2} out of serving.yaml and render; in a container: is models/ "
        "mounted?",
    ),
    _line(
        "no-versions",
        r"No versions of servable (\S+) found under base path (\S+?)\. ",
        "no folder in {2} has a number for a name: a server that starts waits for one, with all ports closed",
        "servekit doctor --only versions {1}",
        cured_by=r"Successfully loaded servable version \{{name: {1} ",
    ),
    _line(
        "version-not-found",
        r"Version (\d+) of servable (\S+?), which was requested to be served as a 'specific' version",
        "serving.yaml names version {1} of {2}, and its folder is not there",
        "servekit export {2} --version {1}",
        Severity.WARNING,
        cured_by=r"Successfully loaded servable version \{{name: {2} version: {1}\}}",
    ),
    _line(
        "same-version-twice",
        r"Duplicate version directories detected\. Version (\d+) will be loaded from (\S+?), (\S+) will be ignored",
        "{2} and {3} are the same version {1}",
        "remove one of them",
        Severity.WARNING,
    ),
    _line(
        "no-saved-model",
        r"Specified file path does not appear to contain a SavedModel bundle",
        "a version folder has no saved_model.pb: it was half copied, or the SavedModel lies one folder further down",
        "servekit doctor --only versions; copy it whole under another name and rename it",
    ),
    _line(
        "saved-model-cut",
        r"(?:" + _SERVABLE + r".*)?Can't parse (\S+?saved_model\.pb) as binary proto",
        "{path} is cut off or no SavedModel",
        "copy it again as the next version number: a failed number stays failed until the server starts again",
        cured_by=_LOADED,
    ),
    _line(
        "wrong-tags",
        r"Could not find meta graph def matching supplied tags: \{ (.*?) \}",
        "the SavedModel has no graph with the tags {1}",
        "servekit inspect MODEL shows its tags; then server.flags.saved_model_tags in serving.yaml",
    ),
    _line(
        "warmup",
        r"corrupted record at \d+|Failed to parse warmup record|Number of warmup records exceeds the maximum",
        "the warmup file of a version is damaged, or has over 1,000 records: the version does not load",
        "remove assets.extra/tf_serving_warmup_requests and publish it as the next version; servekit export writes "
        "it anew",
    ),
    _line(
        "no-variables",
        r"Could not find variable (\S+?)\.? ",
        "the graph reads the variable {1}, and nothing restored it: variables/ is missing, or the model was saved by a "
        "tf.Module that tracks a Keras 3 model",
        "servekit doctor --only versions; export it with servekit export, which loads it as the server does",
    ),
    _line(
        "data-loss",
        r"DATA_LOSS|Data loss|Read less bytes than requested|[Cc]hecksum does not match|not an sstable|"
        r"Unable to open table file",
        "a file of a version is cut off or damaged",
        "servekit doctor --only versions; copy it again as the next version number",
    ),
    _line(
        "gave-up",
        r"Retrying of Loading servable: " + _SERVABLE + r" exhausted max_num_retries",
        "version {version} of {model} did not load and will not be tried again",
        "publish it under the next number, or start the server again",
        cured_by=_LOADED,
    ),
    _line(
        "overwritten",
        r"Bad address|SIGBUS",
        "files of a loaded version were overwritten in place; the server has them mapped into memory",
        "start the server again; publish changes as a new version number, never over an old one",
    ),
    # The SavedModel and the server's TensorFlow.
    _line(
        "op-unknown",
        r"Op type not registered '(\w+)'",
        "this server's TensorFlow has no op {1}: the SavedModel was written by a newer one, or needs a custom op",
        "servekit doctor --only tensorflow; use a newer image, or export with the image's TensorFlow",
    ),
    _line(
        "attribute-unknown",
        r"NodeDef mentions attr '(\w+)' not in Op",
        "this server's TensorFlow does not know the attribute {1}: the SavedModel was written by a newer one",
        "servekit doctor --only tensorflow; use a newer image, or export with the image's TensorFlow",
    ),
    # Flags and ports.
    _line(
        "unknown-flag",
        r"unknown argument: (.*)",
        "the server ignores {1}: misspelt, or written as `--flag value` (only --flag=value counts)",
        "servekit doctor --only settings",
    ),
    _line(
        "no-model",
        r"Both server_options\.model_base_path and server_options\.model_config_file are empty",
        "the server was started without --model_config_file",
        "servekit up, or docker compose up -d",
    ),
    _line(
        "same-ports",
        r"server_options\.http_port cannot be same as grpc_port",
        "REST and gRPC were given the same port: REST stays closed",
        "set server.rest_api_port in serving.yaml",
    ),
    _line(
        "port-taken",
        r"Address already in use|Failed to bind to address|No address added out of total",
        "another process has the port",
        "servekit doctor --only ports",
    ),
    _line(
        "batch-sizes",
        r"Last entry in allowed_batch_sizes must match max_batch_size; last entry was (\d+); expected (\d+)",
        "allowed_batch_sizes ends in {1} and max_batch_size is {2}: no model loads",
        "write allowed_batch_sizes: auto in serving.yaml, servekit render, then start the server again",
    ),
    _line(
        "queue-full",
        r"The batch scheduling queue to which this task was submitted is full",
        "more requests wait than batching.max_enqueued_batches allows: they are answered UNAVAILABLE (503)",
        "fewer clients at once, more replicas or CPUs, or a higher max_enqueued_batches in serving.yaml",
        Severity.WARNING,
    ),
    _line(
        "request-too-large",
        r"Task size (\d+) is larger than maximum input batch size (\d+)",
        "a request has {1} rows, max_batch_size is {2}",
        "send fewer rows (servekit predict --batch {2}), or raise batching.max_batch_size",
        Severity.WARNING,
    ),
    _line(
        "no-batch-dimension",
        r"Batching Run\(\) input tensors must have|Batched output tensor",
        "batching is on and a signature has a tensor without a leading batch dimension",
        "give every input and output a first dimension of -1, or set batching.enabled: false",
    ),
    _line(
        "message-too-large",
        r"Received message larger than max \((\d+) vs\. (\d+)\)",
        "a gRPC client takes at most {2} bytes and was sent {1}: 4 MB is gRPC's default, on the client's side",
        "raise grpc.max_receive_message_length in the client (servekit's has no limit)",
        Severity.WARNING,
    ),
    _line(
        "timeout",
        r"Timed out waiting for notification",
        "a REST request took longer than server.rest_api_timeout_in_ms; the server goes on computing it",
        "smaller requests, or a higher rest_api_timeout_in_ms",
        Severity.WARNING,
    ),
    # The machine and the container.
    _line(
        "out-of-memory",
        r"OOM when allocating|out of memory|std::bad_alloc|Cannot allocate memory",
        "memory ran out, of the machine, the container or the GPU",
        "servekit doctor --only resources,gpu; smaller batches, fewer versions at once, or a higher limit",
    ),
    _line(
        "threads-exhausted",
        r"Resource temporarily unavailable|Thread \S+ creation via pthread_create\(\) failed",
        "the limit of processes and threads is reached",
        "raise pids in docker-compose.yaml, or set server.cpus in serving.yaml for smaller thread pools",
    ),
    _line(
        "grpc-exhausted",
        r"RESOURCE_EXHAUSTED",
        "a limit of memory, threads or message size was reached (more gRPC calls at once than --grpc_max_threads)",
        "servekit doctor --only resources; with more calls at once: server.flags.grpc_max_threads in serving.yaml",
    ),
    _line(
        "too-many-files",
        r"Too many open files",
        "the limit of open files is reached; every connection is one",
        "raise nofile: ulimit -n 65536, or ulimits in docker-compose.yaml",
    ),
    _line(
        "read-only",
        r"(?:([^\s:'\"]+)['\"]?: )?Read-only file system",
        "something writes where the container's root is read-only ({1})",
        "give it a tmpfs or a volume in docker-compose.yaml; the server itself writes nothing",
    ),
    _line(
        "illegal-instruction",
        r"[Ii]llegal instruction|SIGILL|was compiled to use (\S+) instructions, but these aren't available",
        "this CPU (or its emulation) lacks instructions that the binary was built with, such as AVX",
        "run it on an amd64 machine with AVX, or use servekit up --engine embedded",
    ),
    _line(
        "gpu-driver-missing",
        r'could not select device driver "?(\w*)"? with capabilities: \[\[gpu\]\]|unknown or invalid runtime name: '
        r"nvidia",
        "Docker has no NVIDIA runtime: the NVIDIA Container Toolkit is missing or Docker was not told of it",
        "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && "
        "sudo systemctl restart docker",
    ),
    _line(
        "gpu-driver-old",
        r"CUDA driver version is insufficient|CUDA_ERROR_(?:SYSTEM_DRIVER_MISMATCH|COMPAT_NOT_SUPPORTED\w*)|"
        r"unsatisfied condition: cuda>=(\S+)",
        "the NVIDIA driver is too old for the image's CUDA",
        "servekit doctor --only gpu shows which driver it needs",
    ),
    _line(
        "gpu-too-new",
        r"no kernel image is available for execution|CUDA_ERROR_NO_BINARY_FOR_GPU|CUDA_ERROR_INVALID_PTX|PTX was "
        r"compiled with",
        "the image has no code for this GPU's generation",
        "servekit doctor --only gpu; take a newer image, or the CPU image",
    ),
    _line(
        "gpu-none",
        r"failed call to cuInit: \S*(?:CUDA_ERROR_NO_DEVICE|no CUDA-capable device)|CUDA_ERROR_NO_DEVICE",
        "the GPU image sees no GPU",
        "servekit doctor --only gpu",
    ),
    _line(
        "cpu-only",
        r"Could not find cuda drivers on your machine|Cannot dlopen some GPU libraries",
        "runs on the CPU: there is no GPU, or the CPU image runs on a machine that has one",
        "nothing to do on a CPU; for a GPU: COMPOSE_PROFILES=gpu in .env",
        Severity.NOTE,
    ),
    _line(
        "harmless-cpu-flags",
        r"This TensorFlow binary is optimized (?:with|to use)",
        "harmless: TensorFlow lists CPU instructions that it could also use",
        "nothing to do",
        Severity.NOTE,
    ),
    # What is left of a start that failed, when none of the above said why.
    _line(
        "load-failed",
        r"Loading servable: " + _SERVABLE + r" failed: (?P<why>.*)",
        "version {version} of {model} did not load: {why}",
        "servekit doctor --only versions {model}",
        cured_by=_LOADED,
    ),
    _line(
        "start-failed",
        r"Failed to start server\. Error: (.*)",
        "the server ended: {1}",
        "servekit doctor",
    ),
)
