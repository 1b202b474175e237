"""TFLite networks rebuilt: the real one against TensorFlow Lite, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from servekit.errors import ExportError
from servekit.export.tflite import parse, tflite_network
from tests.export.test_pictures import PORTRAIT, tflite_file

pytestmark = pytest.mark.slow


def changed(path: Path, change: Any) -> Path:
    """The real file with something else in it."""
    import flatbuffers  # type: ignore[import-untyped]

    model = parse(tflite_file())
    change(model)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_the_network_answers_for_batches_as_tensorflow_lite_does_for_one() -> None:
    from servekit.export.tflite_interpreter import interpreted

    found = tflite_network(tflite_file())
    assert {name: spec.shape for name, spec in found.network.inputs.items()} == {"input_1": (None, 256, 256, 3)}
    portrait = np.asarray(Image.open(io.BytesIO(PORTRAIT)).resize((256, 256)), np.float32) / 255
    images = np.stack([portrait, portrait[:, ::-1], portrait * 0.5])
    (scores,) = found.network.function(input_1=images).values()
    expected = interpreted(tflite_file(), images)
    assert expected.shape == (3, 256, 256, 1)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        from tensorflow.lite.python import schema_py_generated as schema

        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.HARD_SWISH:
                code.builtinCode = schema.BuiltinOperator.SVDF
                code.deprecatedBuiltinCode = schema.BuiltinOperator.SVDF

    with pytest.raises(ExportError, match=r"other\.tflite: operators that are not supported: SVDF") as caught:
        tflite_network(changed(tmp_path / "other.tflite", change))
    assert caught.value.hint is not None


def test_a_quantised_network_is_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        weights = next(tensor for tensor in model.subgraphs[0].tensors if model.buffers[tensor.buffer].data is not None)
        weights.type = 9  # int8

    with pytest.raises(ExportError, match=r"int8\.tflite: tensor .* is quantised; only float networks are supported"):
        tflite_network(changed(tmp_path / "int8.tflite", change))


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_file_that_is_no_tflite_is_one_clear_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(tflite_file().read_bytes()[:size])
    with pytest.raises(ExportError, match=r"cut\.tflite: (not a|a broken) TFLite file") as caught:
        tflite_network(path)
    assert "\n" not in caught.value.message
