"""TensorFlow Lite's own answers, to hold a rebuilt network to.

The interpreter of the wheel lacks MediaPipe's operator; its copy of the network gets TFLite's built-in transposed
convolution in its place, which since version 3 adds a bias too. Kernels, and their arithmetic, remain TFLite's.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from servekit.export.recipe import Array
from servekit.export.tflite import TRANSPOSED_WITH_BIAS, operator_name, parse


def interpreted(path: Path, images: Array) -> Array:
    """images: float32 [batch, ...], the network's only input, one by one → its only output [batch, ...]."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite.Interpreter announces its move to another package
        interpreter = tf.lite.Interpreter(model_content=with_built_ins(parse(path)), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in images:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(exit_["index"])[0])
    return np.stack(answers)


def with_built_ins(model: Any) -> bytes:
    """The model's file with TRANSPOSE_CONV for MediaPipe's operator."""
    import flatbuffers  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema

    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE_CONV
    code.version = 3
    for operator in graph.operators:
        if operator_name(model, operator) != TRANSPOSED_WITH_BIAS:
            continue
        if code not in model.operatorCodes:
            model.operatorCodes.append(code)
        padding, down, right = struct.unpack("<iii", bytes(operator.customOptions))
        options = schema.TransposeConvOptionsT()
        options.padding = padding - 1  # TfLitePadding counts from 1
        options.strideH, options.strideW = down, right
        size = _add_constant(model, np.array(graph.tensors[operator.outputs[0]].shape, np.int32))
        x, kernel, bias = operator.inputs
        operator.inputs = [size, kernel, x, bias]
        operator.opcodeIndex = model.operatorCodes.index(code)
        operator.builtinOptionsType = schema.BuiltinOptions.TransposeConvOptions
        operator.builtinOptions, operator.customOptions = options, None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_constant(model: Any, values: Array) -> int:
    """Number of a new tensor with these int32 values."""
    from tensorflow.lite.python import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type = np.array(values.shape, np.int32), schema.TensorType.INT32
    tensor.buffer, tensor.name = len(model.buffers) - 1, b"output_shape"
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1
