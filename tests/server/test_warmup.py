from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.warmup import RECORDS_FILE, warm_up


class Model:
    """Remembers the names of the models in the requests that it was asked to answer."""

    def __init__(self, fail: bool = False, code: Code = Code.INVALID_ARGUMENT) -> None:
        self.asked: list[str] = []
        self.told: list[str] = []
        self.fail, self.code = fail, code

    def __call__(self, log: Any) -> None:
        self.asked.append(log.predict_log.request.model_spec.name)
        if self.fail:
            raise StatusError(self.code, "no")

    def hear(self, status: str, _seconds: float) -> None:
        self.told.append(status)


def record(name: str) -> bytes:
    log = messages.PredictionLog()
    log.predict_log.request.model_spec.name = name
    data: bytes = log.SerializeToString()
    return data


def run(version: Path, records: Iterable[bytes], model: Model, iterations: int = 0) -> list[str]:
    (version / RECORDS_FILE).parent.mkdir(parents=True, exist_ok=True)
    (version / RECORDS_FILE).touch()
    warm_up(version, lambda _path: records, model, iterations=iterations, ended=model.hear)
    return model.told


def test_without_a_file_nothing_happens(tmp_path: Path) -> None:
    model = Model()
    warm_up(tmp_path, lambda _path: [record("x")], model, iterations=3, ended=lambda *_: pytest.fail("nothing ended"))
    assert model.asked == []


def test_each_record_runs_in_order_and_its_models_name_does_not_matter(tmp_path: Path) -> None:
    model = Model()
    assert run(tmp_path, [record("a"), record("b")], model) == ["OK"]
    assert model.asked == ["a", "b"]


def test_iterations_repeat_each_record(tmp_path: Path) -> None:
    model = Model()
    run(tmp_path, [record("a"), record("b")], model, iterations=2)
    assert model.asked == ["a", "a", "b", "b"]


def test_the_first_failure_ends_it(tmp_path: Path) -> None:
    model = Model(fail=True)
    with pytest.raises(StatusError, match="no"):
        run(tmp_path, [record("a"), record("b")], model)
    assert model.asked == ["a"]


def test_a_thousand_records_are_the_limit(tmp_path: Path) -> None:
    run(tmp_path, [record("a")] * 1000, Model())
    with pytest.raises(StatusError, match=r"Number of warmup records exceeds the maximum \(1000\) at "):
        run(tmp_path, [record("a")] * 1001, Model())


def test_a_record_that_is_no_prediction_log(tmp_path: Path) -> None:
    with pytest.raises(StatusError) as failed:
        run(tmp_path, [b"\xff\xff\xff\xff"], Model())
    assert failed.value.code is Code.INVALID_ARGUMENT
    assert failed.value.message.startswith("Failed to parse warmup record: ")
    assert failed.value.message.endswith(f" from {tmp_path / RECORDS_FILE}")


def test_a_damaged_file_says_what_it_should_be(tmp_path: Path) -> None:
    def damaged() -> Iterator[bytes]:
        yield record("a")
        raise StatusError(Code.DATA_LOSS, "corrupted record at 12")

    model = Model()
    with pytest.raises(StatusError) as failed:
        run(tmp_path, damaged(), model)
    assert str(failed.value) == (
        "DATA_LOSS: corrupted record at 12. Please verify your warmup data is in TFRecord format."
    )
    assert model.told == ["DATA_LOSS: corrupted record at 12"]  # RunSavedModelWarmup of saved_model_warmup_util.cc


def test_a_model_that_says_data_loss_speaks_of_its_own_data(tmp_path: Path) -> None:
    model = Model(fail=True, code=Code.DATA_LOSS)
    with pytest.raises(StatusError) as failed:
        run(tmp_path, [record("a")], model)
    assert str(failed.value) == "DATA_LOSS: no"
    assert model.told == []
