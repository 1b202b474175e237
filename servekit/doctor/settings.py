"""Check `settings`: flags and files of the running server that crash it, hang it, or do nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.config.extra_flags import ALL_FLAGS
from servekit.doctor import server_files
from servekit.doctor.docker import numbers
from servekit.doctor.finding import Finding, error, listed, note, warning
from servekit.doctor.programs import ask
from servekit.doctor.stack import Container
from servekit.engine.state import EngineState
from servekit.server.options import Options, Parsed, parse, without_effect

_IN_RELEASE = {
    "enable_serialization_as_tensor_content": (2, 19),
    "xla_gpu_compilation_enabled": (2, 18),
    "mixed_precision": (2, 16),
    "skip_initialize_tpu": (2, 16),
    "enable_grpc_healthcheck_service": (2, 15),
    "enable_per_model_batching_parameters": (2, 12),
}
"""Releases that are sure to have a flag; an older one may print `unknown argument` and go on without."""


@dataclass(frozen=True, slots=True)
class SettingsFacts:
    """`arguments` after the program's name; `files`: text of each file that a flag names, None where there is none."""

    place: str
    arguments: tuple[str, ...]
    files: Mapping[str, str | None]
    release: tuple[int, ...] = ()
    """Of the server, () where unknown."""
    embedded: bool = False


def of_process(state: EngineState) -> SettingsFacts | None:
    """None where the system does not tell another process's command line."""
    try:
        words = Path(f"/proc/{state.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    if not words:  # it is just being born
        return None
    arguments = words[words.index("serve") + 1 :] if "serve" in words else words[1:]
    parsed = parse(arguments)
    files = {flag: _text(Path(path)) for flag in server_files.MESSAGES if (path := getattr(parsed.options, flag))}
    return SettingsFacts(
        f"{state.engine} server, pid {state.pid}", tuple(arguments), files, embedded=state.engine == "embedded"
    )


def of_container(container: Container) -> SettingsFacts | None:
    """From the process list, since a shell may have started the server; None when no model server runs in it."""
    listing = ask(["docker", "top", container.id, "-eo", "pid,args", "ww"])
    line = next(
        (line for line in listing.out.splitlines() if re.search(r"\s--model_(config_file|base_path)=", line)), None
    )
    if line is None:
        return None
    arguments = line[line.index(" --") :].split()
    parsed = parse(arguments)
    files: dict[str, str | None] = {}
    for flag in server_files.MESSAGES:
        if path := getattr(parsed.options, flag):
            answer = ask(["docker", "exec", container.id, "cat", path])
            files[flag] = answer.out if answer.ok else None
    found = re.search(r":v?(\d+\.\d+(?:\.\d+)?)", container.image)
    release = numbers(found[1]) if found else ()
    return SettingsFacts(f"container {container.name}", tuple(arguments), files, release)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def judge(facts: SettingsFacts) -> Iterator[Finding]:
    parsed = parse(facts.arguments)
    yield from _grammar(facts, parsed)
    yield from _fatal(facts.place, parsed.options)
    yield from _labels_and_polls(facts, parsed.options)
    yield from server_files.judge(facts.place, parsed.options, facts.files)
    yield from _without_effect(facts, parsed.options)


def _grammar(facts: SettingsFacts, parsed: Parsed) -> Iterator[Finding]:
    for text in parsed.errors:
        yield error(
            "settings.bad-value",
            facts.place,
            f"{text} The server prints its usage and ends with 255",
            "write true or false for switches, and whole numbers",
        )
    for argument in parsed.unknown:
        name = argument.lstrip("-").partition("=")[0]
        if name in ALL_FLAGS:
            why, remedy = "only --flag=value counts", f"write --{name}=VALUE in one word"
        else:
            why, remedy = "no such flag", "take it out, or correct its spelling: servekit serve --help lists all"
        yield warning("settings.ignored-argument", facts.place, f"{argument}: ignored ({why})", remedy)
    names = [argument.lstrip("-").partition("=")[0] for argument in facts.arguments if argument.startswith("--")]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield note(
            "settings.flag-twice",
            facts.place,
            f"{listed(twice)} given more than once: the last one counts",
            "give it once",
        )
    for name, release in _IN_RELEASE.items():
        if facts.release and facts.release < release and name in names:
            yield warning(
                "settings.flag-too-new",
                facts.place,
                f"--{name} is in TF Serving {'.'.join(map(str, release))}; this is "
                f"{'.'.join(map(str, facts.release))}, which may ignore it",
                "use a newer image",
            )


def _fatal(place: str, options: Options) -> Iterator[Finding]:
    if options.rest_api_num_threads == 1:
        yield error(
            "settings.one-rest-thread",
            place,
            "--rest_api_num_threads=1: the port accepts, and no REST request is ever answered",
            "take server.flags.rest_api_num_threads out of serving.yaml, or set 2 and more",
        )
    if options.enable_serialization_as_tensor_content:
        yield error(
            "settings.tensor-content",
            place,
            "--enable_serialization_as_tensor_content: the first REST prediction ends TF Serving (segmentation fault)",
            "start it without",
        )
    if options.batching_parameters_file and not options.enable_batching:
        yield error(
            "settings.batching-off",
            place,
            "--batching_parameters_file without --enable_batching: the server does not start",
            "give both, or neither: batching.enabled in serving.yaml",
        )
    if options.rest_api_port and options.rest_api_port == options.port:
        yield error(
            "settings.same-ports",
            place,
            f"REST and gRPC both on {options.port}: REST stays closed",
            "set server.rest_api_port in serving.yaml",
        )
    if options.file_system_poll_wait_seconds == 0:
        yield error(
            "settings.looks-once",
            place,
            "--file_system_poll_wait_seconds=0: no new version is ever loaded, and a new "
            "model hangs every later reload",
            "servekit up sets it from server.poll_seconds",
        )
    if options.use_alts_credentials:
        yield error("settings.alts", place, "--use_alts_credentials works on Google Cloud only", "take it out")


def _labels_and_polls(facts: SettingsFacts, options: Options) -> Iterator[Finding]:
    place = facts.place
    if options.model_config_file and options.model_config_file_poll_wait_seconds <= 0:
        yield warning(
            "settings.no-poll",
            place,
            "--model_config_file_poll_wait_seconds is 0: labels never move and edits are never seen",
            "set it to 1 (servekit up does)",
        )
    has_labels = "version_labels" in (facts.files.get("model_config_file") or "")
    if has_labels and not options.allow_version_labels_for_unavailable_models:
        yield error(
            "settings.labels-at-start",
            place,
            "models.config has labels, and without "
            "--allow_version_labels_for_unavailable_models the server does not start with them",
            "add the flag (servekit up does)",
        )
    if options.num_load_threads == 0:
        yield warning(
            "settings.no-load-threads",
            place,
            "--num_load_threads is 0: a load that is retried stops all other loads and unloads",
            "server.num_load_threads: 2 in serving.yaml",
        )
    if not facts.embedded and options.max_num_load_retries * options.load_retry_interval_micros > 60_000_000:
        minutes = options.max_num_load_retries * options.load_retry_interval_micros / 60_000_000
        yield warning(
            "settings.long-retries",
            place,
            f"a version that cannot load is tried for {minutes:.0f} minutes; a start keeps all ports closed meanwhile",
            "server.max_num_load_retries: 1 in serving.yaml",
        )
    if options.enable_per_model_batching_parameters and options.enable_batching:
        yield warning(
            "settings.per-model-batching",
            place,
            "--enable_per_model_batching_parameters: versions without a batching_params.pbtxt are not batched at all",
            "start it without, or add the file to every version",
        )
    if options.enable_profiler and not facts.embedded:
        yield warning(
            "settings.profiler",
            place,
            "the profiler's service is on: whoever reaches the gRPC port can use it",
            "server.enable_profiler: false in serving.yaml",
        )
    if options.monitoring_config_file and not options.rest_api_port:
        yield warning(
            "settings.no-metrics",
            place,
            "--monitoring_config_file without --rest_api_port: metrics are nowhere",
            "give --rest_api_port=8501",
        )


def _without_effect(facts: SettingsFacts, options: Options) -> Iterator[Finding]:
    given = {argument[2:].partition("=")[0] for argument in facts.arguments if argument.startswith("--")}
    for flags, idle, why in _IDLE:
        if idle(options) and (found := sorted(given & flags)):
            yield note("settings.no-effect", facts.place, f"{listed(found)}: without effect {why}", "take it out")
    if facts.embedded and (found := sorted(set(without_effect(options)) - {"enable_profiler"})):
        yield note(
            "settings.no-effect",
            facts.place,
            f"{listed(found)}: without effect in the embedded server",
            "nothing to do; TensorFlow Serving heeds it",
        )


_IDLE: tuple[tuple[set[str], Callable[[Options], bool], str], ...] = (
    ({"model_name", "model_base_path"}, lambda one: bool(one.model_config_file), "beside --model_config_file"),
    (
        {"model_config_file_poll_wait_seconds", "allow_version_labels_for_unavailable_models"},
        lambda one: not one.model_config_file,
        "without --model_config_file",
    ),
    (
        {"rest_api_num_threads", "rest_api_timeout_in_ms", "rest_api_enable_cors_support"},
        lambda one: not one.rest_api_port,
        "without --rest_api_port",
    ),
    (
        {"num_request_iterations_for_warmup"},
        lambda one: not one.enable_model_warmup,
        "with --enable_model_warmup=false",
    ),
    (
        {"num_tflite_pools", "num_tflite_interpreters_per_pool"},
        lambda one: not one.prefer_tflite_model,
        "without --prefer_tflite_model",
    ),
    (
        {"enable_per_model_batching_parameters"},
        lambda one: not one.enable_batching,
        "without --enable_batching",
    ),
)
"""Flags that do nothing because of another one."""


def looked_at(facts: SettingsFacts) -> str:
    return f"{len(facts.arguments)} flags and {len(facts.files)} files of {facts.place}"
