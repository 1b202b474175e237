from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servekit.export import warmup
from servekit.export.recipe import Model, Signature, Source, Spec, strings
from servekit.protos import messages

ANY = Spec("string", (None,))


def example(value: float) -> bytes:
    message = messages.Example()
    message.features.feature["x"].float_list.value.append(value)
    data: bytes = message.SerializeToString()
    return data


def model() -> Model:
    def unused(*_: object, **__: object) -> dict[str, object]:
        raise AssertionError("records are made without running the graph")

    return Model(
        signatures={
            "serving_default": Signature(unused, {"image_bytes": ANY}),
            "classify": Signature(unused, {"inputs": ANY}, method="classify"),
        },
        source=Source("test"),
        warmup={
            "serving_default": {"image_bytes": strings(b"\x00\xff"), "size": np.array([3], np.int32)},
            "classify": {"inputs": strings(example(1.5))},
        },
    )


def shapes(folder: Path) -> list[tuple[str, int]]:
    return [(name, len(next(iter(inputs.values())))) for name, inputs in warmup.read(folder)]


def test_each_signature_gets_each_batch_size_once_the_default_one_first(tmp_path: Path) -> None:
    records = warmup.requests(model(), "m", [8, 1, 8])
    warmup.write(tmp_path, records)
    expected = [("serving_default", 1), ("serving_default", 8), ("classify", 1), ("classify", 8)]
    assert shapes(tmp_path) == expected
    assert [(record.signature, record.batch_size) for record in records] == expected


def test_large_records_of_other_signatures_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "LIMIT_BYTES", 300)
    records = warmup.requests(model(), "m", [1, 4, 64])
    made = [(record.signature, record.batch_size) for record in records]
    assert made == [("serving_default", 1), ("serving_default", 4), ("serving_default", 64), ("classify", 1)]
    assert warmup.left_out(model(), [1, 4, 64], records) == {"classify": [4, 64]}
    assert warmup.left_out(model(), [1], records) == {}


def test_records_carry_the_models_name_and_the_exact_inputs(tmp_path: Path) -> None:
    records = warmup.requests(model(), "imagenet", [2])
    logs = [record.log for record in records]
    assert {log.predict_log.request.model_spec.name for log in logs if log.HasField("predict_log")} == {"imagenet"}
    warmup.write(tmp_path, records)
    (_, predict), (_, classify) = warmup.read(tmp_path)
    assert predict["image_bytes"].tolist() == [b"\x00\xff"] * 2
    assert predict["size"].dtype == np.int32
    assert classify["inputs"].tolist() == [example(1.5)] * 2


def test_two_exports_of_one_model_have_the_same_records(tmp_path: Path) -> None:
    names = [f"input_{number}" for number in range(9)]
    files = []
    for order in (names, names[::-1]):
        inputs = {name: np.array([names.index(name)], np.int32) for name in order}
        log = warmup.prediction_log("m", "serving_default", "predict", inputs)
        warmup.write(tmp_path, [warmup.Record("serving_default", 1, log)])
        files.append((tmp_path / warmup.FILE).read_bytes())
    assert files[0] == files[1]


def test_the_file_lies_where_tf_serving_looks(tmp_path: Path) -> None:
    warmup.write(tmp_path, warmup.requests(model(), "m", [1]))
    assert (tmp_path / "assets.extra" / "tf_serving_warmup_requests").is_file()
