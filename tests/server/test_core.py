"""ServerCore with a loader of text files: configuration, labels, waiting, states."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from servekit.errors import Code, StatusError
from servekit.model_spec import ModelSpec
from servekit.protos import messages
from servekit.server.config_poller import ConfigFilePoller
from servekit.server.core import ServerCore
from servekit.server.model_service import get_model_status, handle_reload_config_request
from servekit.server.options import Options
from tests.server.text_loader import TextLoader, TextServable, write_version


def config(*models: str) -> Any:
    """`"a /path specific { versions: 1 } | stable: 1"` a model: name, base path, policy, labels."""
    text = []
    for model in models:
        head, _, labels = model.partition("|")
        name, path, *policy = head.split(maxsplit=2)
        pairs = (label.split(":") for label in labels.split())
        text.append(
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" '
            + (f"model_version_policy {{ {policy[0]} }} " if policy else "")
            + "".join(f'version_labels {{ key: "{k}" value: {v} }} ' for k, v in pairs)
            + "}"
        )
    return text_format.Parse("model_config_list { " + " ".join(text) + " }", messages.ModelServerConfig())


class Core:
    def __init__(self, base: Path, **options: Any) -> None:
        self.base = base
        self.loader = TextLoader()
        self.core = ServerCore(Options(max_num_load_retries=0, **options), self.loader)

    def load(self, *models: str) -> None:
        self.core.reload(config(*(m.replace("BASE", str(self.base)) for m in models)))

    def states(self, name: str = "a") -> str:
        return " ".join(f"{s.id.version}:{s.state.name}" for s in self.core.states(name))

    def until(self, states: str, name: str = "a") -> None:
        deadline = time.monotonic() + 30
        while self.states(name) != states:
            assert time.monotonic() < deadline, self.states(name)
            time.sleep(0.02)

    def answer(self, **spec: Any) -> str:
        with self.core.handle(ModelSpec("a", **spec)) as handle:
            assert isinstance(handle.servable, TextServable)
            return handle.servable.text


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Core]]:
    cores: list[Core] = []

    def make(**options: Any) -> Core:
        for version in (1, 2):
            write_version(tmp_path / "a", version, f"answer of {version}")
        write_version(tmp_path / "b", 1)
        cores.append(Core(tmp_path, **options))
        return cores[-1]

    yield make
    for core in cores:
        core.loader.gate.set()
        core.core.stop()


ALLOW = {"allow_version_labels_for_unavailable_models": True}
BOTH = "a BASE/a specific { versions: [1, 2] }"


def test_a_reload_returns_when_the_models_are_available(made: Callable[..., Core]) -> None:
    c = made()
    c.load("a BASE/a", "b BASE/b")
    assert c.states() == "2:AVAILABLE"
    assert c.states("b") == "1:AVAILABLE"


def test_specs_are_resolved_by_version_by_label_and_to_the_highest(made: Callable[..., Core]) -> None:
    c = made(**ALLOW)
    c.load(f"{BOTH} | stable:1 canary:2")
    c.until("2:AVAILABLE 1:AVAILABLE")  # a load returns with the first of them
    assert c.answer() == "answer of 2"
    assert c.answer(version=1) == "answer of 1"
    assert c.answer(version_label="stable") == "answer of 1"


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (ModelSpec(""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (ModelSpec("no"), Code.NOT_FOUND, "Servable not found for request: Latest(no)"),
        (ModelSpec("a", 9), Code.NOT_FOUND, "Servable not found for request: Specific(a, 9)"),
        (ModelSpec("a", None, "no"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: no"),
        (ModelSpec("a", None, ""), Code.INVALID_ARGUMENT, "Unrecognized servable version label: "),
        (ModelSpec("no", None, "x"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
    ],
    ids=["no name", "unknown model", "unknown version", "unknown label", "empty label", "label of an unknown model"],
)
def test_specs_that_mean_nothing(made: Callable[..., Core], spec: ModelSpec, code: Code, message: str) -> None:
    c = made()
    c.load("a BASE/a")
    with pytest.raises(StatusError) as refused:
        c.core.handle(spec)
    assert (refused.value.code, refused.value.message) == (code, message)


def test_labels_in_the_first_configuration_need_the_flag(made: Callable[..., Core]) -> None:
    with pytest.raises(StatusError, match="FAILED_PRECONDITION: Request to assign label to version 1 of model a"):
        made().load(f"{BOTH} | stable:1")


def test_a_label_can_not_move_to_a_version_that_is_added_by_the_same_edit(made: Callable[..., Core]) -> None:
    c = made(**ALLOW)
    c.load("a BASE/a specific { versions: 1 } | canary:1")
    with pytest.raises(StatusError, match="version 2 of model a"):
        c.load(f"{BOTH} | canary:2")
    time.sleep(1.3)
    assert c.states() == "1:AVAILABLE"  # and the version of the refused edit is never loaded
    assert c.answer(version_label="canary") == "answer of 1"
    c.load(f"{BOTH} | canary:1")
    c.until("2:AVAILABLE 1:AVAILABLE")
    c.load(f"{BOTH} | canary:2")
    assert c.answer(version_label="canary") == "answer of 2"


def test_a_bad_label_stops_the_models_and_versions_of_all(made: Callable[..., Core]) -> None:
    c = made(**ALLOW)
    c.load("a BASE/a specific { versions: 1 } | stable:1")
    with pytest.raises(StatusError):
        c.load("b BASE/b", "a BASE/a specific { versions: 1 } | stable:9")
    with pytest.raises(StatusError, match="Could not find any versions of model b"):
        c.states("b")


def test_a_label_whose_version_is_gone_dangles(made: Callable[..., Core]) -> None:
    c = made(**ALLOW)
    c.load(f"{BOTH} | stable:1")
    c.until("2:AVAILABLE 1:AVAILABLE")  # a load returns with the first of them
    c.load("a BASE/a specific { versions: 2 } | stable:1")
    c.until("2:AVAILABLE 1:END")
    with pytest.raises(StatusError, match=r"NOT_FOUND: Servable not found for request: Specific\(a, 1\)"):
        c.answer(version_label="stable")


def test_an_unknown_platform_comes_to_light_after_the_labels_moved(made: Callable[..., Core]) -> None:
    c = made(**ALLOW)
    c.load(f"{BOTH} | stable:1")
    c.until("2:AVAILABLE 1:AVAILABLE")  # a load returns with the first of them
    new = config(f"a {c.base}/a specific {{ versions: [1, 2] }} | stable:2", f"b {c.base}/b")
    new.model_config_list.config[1].model_platform = "pytorch"
    with pytest.raises(StatusError, match="Model b requests unsupported platform pytorch"):
        c.core.reload(new)
    assert c.answer(version_label="stable") == "answer of 2"


def test_an_empty_list_unloads_everything(made: Callable[..., Core]) -> None:
    c = made()
    c.load("a BASE/a")
    c.load()
    c.until("2:END")


def test_a_new_model_that_can_not_be_loaded_is_reported_and_stays_configured(made: Callable[..., Core]) -> None:
    c = made()
    c.load("a BASE/a")
    write_version(c.base / "c", 1, "broken")
    with pytest.raises(StatusError) as failed:
        c.load("a BASE/a", "c BASE/c")
    assert str(failed.value) == (
        "UNKNOWN: 1 model(s) did not become available: {{{name: c version: 1} due to error: DATA_LOSS: it is broken}, }"
    )
    c.load("a BASE/a", "c BASE/c")  # it is not new any more
    assert c.states("c") == "1:END"
    assert c.answer() == "answer of 2"


def test_one_broken_model_at_the_start_fails_the_start(made: Callable[..., Core]) -> None:
    c = made()
    write_version(c.base / "c", 1, "broken")
    with pytest.raises(StatusError, match=r"1 servable\(s\) did not become available: \{\{\{name: c version: 1\}"):
        c.load("a BASE/a", "c BASE/c")


def test_a_reload_waits_for_a_new_model_and_others_wait_for_the_reload(made: Callable[..., Core]) -> None:
    c = made()
    c.load("a BASE/a")
    waiting = threading.Thread(target=c.load, args=("a BASE/a", "c BASE/c"), daemon=True)
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    assert c.answer() == "answer of 2"
    write_version(c.base / "c", 1)
    waiting.join(30)
    assert c.states("c") == "1:AVAILABLE"


def test_stopping_ends_a_reload_that_waits(made: Callable[..., Core]) -> None:
    c = made()
    errors: list[StatusError] = []

    def start() -> None:
        try:
            c.load("c BASE/c")
        except StatusError as error:
            errors.append(error)

    waiting = threading.Thread(target=start)
    waiting.start()
    time.sleep(0.2)
    c.core.stop()
    waiting.join(20)
    assert [error.code for error in errors] == [Code.CANCELLED]


def test_an_empty_configuration_may_be_followed_by_models_but_not_follow_them(made: Callable[..., Core]) -> None:
    c = made()
    c.core.reload(messages.ModelServerConfig())
    with pytest.raises(StatusError, match=r"Model labels does not init yet\.stable"):
        c.core.handle(ModelSpec("a", None, "stable"))
    c.load("a BASE/a")
    with pytest.raises(StatusError, match="Cannot transition to requested config"):
        c.core.reload(messages.ModelServerConfig())
    assert c.answer() == "answer of 2"


def test_a_version_folder_that_is_still_being_written_under_another_name_is_not_served(
    made: Callable[..., Core],
) -> None:
    c = made(file_system_poll_wait_seconds=1)
    c.load("a BASE/a")
    staging = c.base / "a" / ".3"
    staging.mkdir()
    time.sleep(1.3)
    assert c.states() == "2:AVAILABLE"
    (staging / "model.txt").write_text("answer of 3")
    staging.rename(c.base / "a" / "3")
    c.until("3:AVAILABLE 2:END")


def test_an_unreadable_file_leaves_the_old_configuration_serving(
    made: Callable[..., Core], caplog: pytest.LogCaptureFixture
) -> None:
    c = made()
    file = c.base / "models.config"
    poller = ConfigFilePoller(c.core, str(file), 1)
    file.write_text(str(config(f"a {c.base}/a")))
    poller.poll_once()
    for text, log in [
        ("model_config_list { config { name: ", f"ModelServerConfig file: Invalid protobuf file: '{file}'"),
        ("", f"Failed to read ModelServerConfig file: {file}; Invalid argument"),
        ("# nothing", "PollFilesystemAndReloadConfig failed to ReloadConfig: Cannot transition"),
    ]:
        file.write_text(text)
        poller.poll_once()
        assert log in caplog.text
    file.unlink()
    poller.poll_once()
    assert f"Failed to read ModelServerConfig file: {file}; No such file or directory" in caplog.text
    assert c.answer() == "answer of 2"
    file.write_text(str(config(f"a {c.base}/a")))
    told = []
    for _ in range(3):
        caplog.clear()
        with caplog.at_level("INFO"):
            poller.poll_once()
        told.append("Finished adding/updating models" in caplog.text)
    assert told == [True, False, False]  # that it is over is said once


def test_status_answers_list_the_highest_version_first_and_errors(made: Callable[..., Core]) -> None:
    c = made()
    c.load("a BASE/a")
    write_version(c.base / "a", 3, "broken")
    c.until("3:END 2:AVAILABLE")
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "a"
    request.model_spec.version_label = "ignored"
    newest, older = get_model_status(c.core, request).model_version_status
    assert (newest.version, newest.state) == (3, 50)
    assert (newest.status.error_code, newest.status.error_message) == (Code.DATA_LOSS, "it is broken")
    assert (older.version, older.state, older.status.error_code) == (2, 30, 0)


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("", "INVALID_ARGUMENT: Missing ModelSpec"),
        ("model_spec { name: 'no' }", "NOT_FOUND: Could not find any versions of model no"),
        ("model_spec { name: 'a' version { value: 7 } }", "NOT_FOUND: Could not find version 7 of model a"),
        ("model_spec { name: 'a' version { } }", "NOT_FOUND: Could not find version 0 of model a"),
    ],
    ids=["no spec", "unknown model", "unknown version", "version 0"],
)
def test_status_requests_that_are_refused(made: Callable[..., Core], request_text: str, message: str) -> None:
    c = made()
    c.load("a BASE/a")
    with pytest.raises(StatusError) as refused:
        get_model_status(c.core, text_format.Parse(request_text, messages.GetModelStatusRequest()))
    assert str(refused.value) == message


def test_a_reload_request_answers_the_increase_of_metrics(made: Callable[..., Core]) -> None:
    c = made()
    values = iter([5, 8])
    request = messages.ReloadConfigRequest(config=config(f"a {c.base}/a"), metric_names=["/some/metric"])
    response = handle_reload_config_request(c.core, request, lambda _name: next(values))
    assert [(m.name, m.int64_value_increase) for m in response.metric] == [("/some/metric", 3)]


def test_a_reload_request_takes_only_a_list(made: Callable[..., Core]) -> None:
    with pytest.raises(StatusError, match="ServerModelConfig type not supported by HandleReloadConfigRequest"):
        handle_reload_config_request(made().core, messages.ReloadConfigRequest())


def test_an_unchanged_configuration_is_logged_once(made: Callable[..., Core], caplog: pytest.LogCaptureFixture) -> None:
    core = made()
    with caplog.at_level(logging.INFO, logger="servekit.server.core"):
        for _ in range(3):
            core.load("a BASE/a specific { versions: 1 }")
        core.load("a BASE/a specific { versions: 2 }")
    assert [record.message for record in caplog.records].count("Adding/updating models.") == 2
