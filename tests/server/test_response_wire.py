"""A PredictResponse written without message objects reads as one written with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from servekit.protos import messages
from servekit.server.response_wire import predict_response, varint
from servekit.tensors import to_content_proto, to_proto

ARRAYS: dict[str, NDArray[Any]] = {
    "float32": np.array([[1.5, -0.0, np.nan]], np.float32),
    "float64": np.array([1e300, 5e-324]),
    "not contiguous": np.arange(300, dtype=np.float32).reshape(20, 15).T[::2],
    "big-endian": np.array([1, 2], ">f4"),
    "scalar": np.array(3, np.float32),
    "empty": np.zeros((2, 0, 3), np.float32),
    "long": np.ones(100_000, np.float32),
    "int64": np.array([-1, 2**62]),
    "int32": np.array([[-1], [7]], np.int32),
    "uint8": np.array([255], np.uint8),
    "int8": np.array([[-128, 127], [0, -1]], np.int8),
    "int16": np.array([-32768], np.int16),
    "uint16": np.array([65535, 0], np.uint16),
    "uint32": np.array([2**32 - 1], np.uint32),
    "uint64": np.array([2**64 - 1, 300], np.uint64),
    "integer": np.array(-5),
    "no integers": np.zeros((0, 5), np.int64),
    "many integers": np.arange(-150, 150).reshape(20, 15).T[::2],
    "big-endian integers": np.array([-2, 300], ">i4"),
    "bool": np.array([True, False]),
    "half": np.array([0.5], np.float16),
    "complex": np.array([1 + 2j], np.complex64),
    "strings": np.array([[b"", b"\xff\0", b"a" * 300]], object),
    "text": np.array(["\u00e9"], object),
    "no strings": np.array([], object),
}


@pytest.mark.parametrize("as_content", [False, True], ids=["typed", "as content"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_output_of_each_kind(name: str, as_content: bool) -> None:
    array = ARRAYS[name]
    expected = messages.PredictResponse()
    expected.outputs["y"].CopyFrom(to_content_proto(array) if as_content else to_proto(array, as_content=False))
    expected.model_spec.name = "m"
    data = predict_response({"y": array}, messages.ModelSpec(name="m").SerializeToString(), as_content=as_content)
    assert data == expected.SerializeToString(deterministic=True)


def test_several_outputs_and_none() -> None:
    spec = messages.ModelSpec(name="m" * 200, signature_name="s").SerializeToString()
    outputs = {"a" * 200: np.ones(2, np.float32), "\u00e9": np.array([b"x"], object)}
    parsed = messages.PredictResponse.FromString(predict_response(outputs, spec, as_content=False))
    assert set(parsed.outputs) == set(outputs)
    assert list(parsed.outputs["a" * 200].float_val) == [1, 1]
    assert list(parsed.outputs["\u00e9"].string_val) == [b"x"]
    assert parsed.model_spec.name == "m" * 200
    assert (
        messages.PredictResponse.FromString(predict_response({}, spec, as_content=True)).model_spec == parsed.model_spec
    )


@pytest.mark.parametrize(("value", "data"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_varints(value: int, data: bytes) -> None:
    assert varint(value) == data
