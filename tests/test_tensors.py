"""servekit.tensors against its own round trip and against TensorFlow's parser."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from servekit.protos import messages
from servekit.tensors import DATA_TYPES, STRING, as_array, data_type_of, to_array, to_content_proto, to_proto

SENT_AS_THEMSELVES = [
    type for type in DATA_TYPES.values() if type is not STRING and not type.name.startswith(("Q", "FLOAT8", "BFLOAT"))
]


@given(st.data(), st.sampled_from(SENT_AS_THEMSELVES), st.booleans())
def test_every_numeric_array_survives_the_round_trip(data: st.DataObject, type: Any, as_content: bool) -> None:
    array: NDArray[Any] = data.draw(hnp.arrays(type.numpy, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
    proto = messages.TensorProto.FromString(to_proto(array, as_content=as_content).SerializeToString())
    back = to_array(proto)
    assert (proto.dtype, back.dtype, back.shape) == (type.number, array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("as_content", [True, False])
def test_types_numpy_does_not_know_survive_the_round_trip(dtype: Any, as_content: bool) -> None:
    array = np.array([0, -1.5, 3, 240], dtype)
    back = to_array(to_proto(array, as_content=as_content))
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, min_side=0), elements=st.binary(max_size=40)))
def test_string_arrays_survive_the_round_trip_with_their_zero_bytes(array: NDArray[Any]) -> None:
    back = to_array(to_proto(array))
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_lists_of_bytes_keep_their_trailing_zero_bytes() -> None:
    assert as_array([b"a\0", b""]).tolist() == [b"a\0", b""]
    assert as_array(b"a\0").shape == ()
    assert to_proto([b"a\0"]).string_val == [b"a\0"]
    assert as_array([["é"]]).tolist() == [["é".encode()]]
    assert as_array(np.array(["é", "b"])).tolist() == ["é".encode(), b"b"]


def test_a_quantized_type_is_named_by_the_caller() -> None:
    proto = to_proto(np.array([1, -2], np.int8), data_type=11)
    assert proto.dtype == 11
    assert to_array(proto).tolist() == [1, -2]


def test_arrays_that_no_tensor_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="datetime64"):
        data_type_of(np.array(["2026-01-01"], "datetime64[D]"))
    with pytest.raises(ValueError, match="bytes or text, not int"):
        to_proto(np.array([b"a", 1], object))


def _proto(text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, messages.TensorProto())


# TensorFlow's rules where a message is not what its shape says; None is a refusal.
ODD_MESSAGES = {
    "last value repeats": ("dtype: DT_FLOAT tensor_shape {dim {size: 4}} float_val: [1, 2]", [1, 2, 2, 2]),
    "no value is zeros": ("dtype: DT_INT64 tensor_shape {dim {size: 2}}", [0, 0]),
    "no text is empty": ("dtype: DT_STRING tensor_shape {dim {size: 2}}", [b"", b""]),
    "last text repeats": ("dtype: DT_STRING tensor_shape {dim {size: 2}} string_val: 'a'", [b"a", b"a"]),
    "too many are cut": ("dtype: DT_INT32 tensor_shape {dim {size: 1}} int_val: [7, 8]", [7]),
    "no rank is a scalar": ("dtype: DT_INT32 tensor_shape {unknown_rank: true} int_val: [7, 8]", 7),
    "narrow types wrap": ("dtype: DT_UINT8 tensor_shape {dim {size: 2}} int_val: [300, -1]", [44, 255]),
    "half is a bit pattern": ("dtype: DT_HALF tensor_shape {dim {size: 1}} half_val: 15360", [1]),
    "half of a complex is ignored": (
        "dtype: DT_COMPLEX64 tensor_shape {dim {size: 2}} scomplex_val: [1, 2, 3]",
        [1 + 2j, 1 + 2j],
    ),
    "values of another field do not count": ("dtype: DT_INT32 tensor_shape {dim {size: 1}} float_val: 3", [0]),
    "content wins": (
        r"dtype: DT_UINT8 tensor_shape {dim {size: 2}} tensor_content: '\001\002' int_val: [8, 9]",
        [1, 2],
    ),
    "string content": (
        r"dtype: DT_STRING tensor_shape {dim {size: 2}} tensor_content: '\001\002abc'",
        [b"a", b"bc"],
    ),
    "no elements ignore the content": (
        r"dtype: DT_INT32 tensor_shape {dim {size: 0}} tensor_content: '\001' int_val: 3",
        [],
    ),
    "content too short": (r"dtype: DT_INT32 tensor_shape {dim {size: 1}} tensor_content: '\001'", None),
    "content too long": (r"dtype: DT_UINT8 tensor_shape {dim {size: 1}} tensor_content: '\001\002'", None),
    "string content cut": (r"dtype: DT_STRING tensor_shape {dim {size: 2}} tensor_content: '\001\002ab'", None),
    "string content without lengths": (r"dtype: DT_STRING tensor_shape {dim {size: 2}} tensor_content: '\001'", None),
    "no dtype": ("tensor_shape {dim {size: 1}} float_val: 1", None),
    "unknown size": ("dtype: DT_FLOAT tensor_shape {dim {size: -1}} float_val: 1", None),
}


@pytest.mark.parametrize(("text", "expected"), ODD_MESSAGES.values(), ids=ODD_MESSAGES.keys())
def test_odd_messages_are_read_as_tensorflow_reads_them(text: str, expected: Any) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="tensor"):
            to_array(_proto(text))
    else:
        assert to_array(_proto(text)).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize(("text", "expected"), ODD_MESSAGES.values(), ids=ODD_MESSAGES.keys())
def test_tensorflow_reads_the_odd_messages_so(text: str, expected: Any) -> None:
    import tensorflow as tf

    proto = _proto(text)
    if expected is None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.io.parse_tensor(proto.SerializeToString(), proto.dtype or tf.float32)
    else:
        assert tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy().tolist() == expected


def test_a_shape_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not fit into memory|Maximum allowed dimension"):
        to_array(_proto("dtype: DT_DOUBLE tensor_shape {dim {size: 4000000000} dim {size: 4000000000}}"))


def test_strings_travel_as_content_too_lengths_first() -> None:
    texts = np.array([[b"a", b""], [b"x" * 300, b"\xff"]], dtype=object)
    proto = to_content_proto(texts)
    assert not proto.string_val
    assert proto.tensor_content == b"\x01\x00\xac\x02\x01" + b"a" + b"x" * 300 + b"\xff"
    assert to_array(proto).tolist() == texts.tolist()
    assert to_content_proto(np.array([1.0], np.float32)).tensor_content == b"\x00\x00\x80\x3f"
