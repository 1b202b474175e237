"""A float TFLite network as a TensorFlow graph for any batch size, with weights that can be folded, frozen and shared.

A .tflite file holds a graph for one runtime and one batch. Each of its operators is rebuilt from the TensorFlow
operation it was made from (schema: tensorflow/lite/schema/schema.fbs); float16 weights become float32. Quantised
networks are refused: their answers are those of integer arithmetic, which a float graph does not give.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servekit.errors import ExportError
from servekit.export.network_file import NetworkFile
from servekit.export.recipe import Array, Network, Spec

TRANSPOSED_WITH_BIAS = "Convolution2DTransposeBias"
"""MediaPipe's own operator: three little-endian int32 (TfLitePadding, stride height, stride width) are its options."""

_DTYPES = {0: "float32", 1: "float16", 2: "int32", 4: "int64", 6: "bool"}
_PADDING = {0: "SAME", 1: "VALID"}  # schema.fbs, Padding
_LITE_PADDING = {1: "SAME", 2: "VALID"}  # builtin_op_data.h, TfLitePadding
Tensors = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    inputs: tuple[int, ...]
    """Tensor numbers; -1 is an input left out."""
    output: int
    options: Any


def tflite_network(path: Path) -> NetworkFile:
    """The first subgraph of the file; inputs and outputs have the file's names. Raises ExportError."""
    model = parse(path)
    graph = model.subgraphs[0]
    constants = _constants(path, model)
    steps = [_step(path, model, operator) for operator in graph.operators]
    _refuse_unknown(path, steps)
    inputs = {_name(graph, number): number for number in map(int, graph.inputs)}
    outputs = {_name(graph, number): number for number in map(int, graph.outputs)}

    def function(**fed: Any) -> Mapping[str, Any]:
        values: dict[int, Any] = {**constants, **{inputs[name]: tensor for name, tensor in fed.items()}}
        for step in steps:
            given = [None if number < 0 else values[number] for number in step.inputs]
            values[step.output] = OPERATORS[step.name](given, step.options)
        return {name: values[number] for name, number in outputs.items()}

    specs = {name: _spec(path, graph.tensors[number]) for name, number in inputs.items()}
    return NetworkFile(Network(function, specs), list(outputs), [path])


def parse(path: Path) -> Any:
    """The file as tensorflow.lite's ModelT object."""
    from tensorflow.lite.python import schema_py_generated as schema

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path.name}: {error.strerror}") from error
    if data[4:8] != b"TFL3":
        raise ExportError(f"{path.name}: not a TFLite file")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(data), 0))
    except (struct.error, IndexError, ValueError, TypeError) as error:
        raise ExportError(f"{path.name}: a broken TFLite file: {error}") from error
    if not model.subgraphs:
        raise ExportError(f"{path.name}: a TFLite file without a graph")
    return model


def operator_name(model: Any, operator: Any) -> str:
    """`CONV_2D`, ... ; the name of a custom operator."""
    from tensorflow.lite.python import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return str(code.customCode.decode())
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files know only the second, of one byte
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return str(names.get(number, f"operator {number}"))


def _step(path: Path, model: Any, operator: Any) -> _Step:
    name = operator_name(model, operator)
    if len(operator.outputs) != 1:
        raise ExportError(f"{path.name}: {name} with {len(operator.outputs)} outputs is not supported")
    custom = operator.builtinOptions is None and operator.customOptions is not None
    options = bytes(operator.customOptions) if custom else operator.builtinOptions
    return _Step(name, tuple(map(int, operator.inputs)), int(operator.outputs[0]), options)


def _refuse_unknown(path: Path, steps: Sequence[_Step]) -> None:
    unknown = sorted({step.name for step in steps} - set(OPERATORS))
    if unknown:
        raise ExportError(
            f"{path.name}: operators that are not supported: {', '.join(unknown)}",
            hint="export the network from where it was trained, as a SavedModel",
        )


def _constants(path: Path, model: Any) -> dict[int, Array]:
    found = {}
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        data = model.buffers[tensor.buffer].data
        if data is None or len(data) == 0:
            continue
        dtype = _dtype(path, tensor)
        shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
        array = np.frombuffer(bytes(data), dtype).reshape(shape)
        found[number] = array.astype(np.float32) if dtype == "float16" else array
    return found


def _dtype(path: Path, tensor: Any) -> str:
    quantised = tensor.quantization is not None and tensor.quantization.scale is not None
    if tensor.type not in _DTYPES or (quantised and len(tensor.quantization.scale) > 0):
        raise ExportError(f"{path.name}: tensor {tensor.name.decode()} is quantised; only float networks are supported")
    return _DTYPES[tensor.type]


def _spec(path: Path, tensor: Any) -> Spec:
    """With a batch of any size, whatever the file fixes it to."""
    shape = [int(size) for size in (tensor.shape if tensor.shape is not None else ())]
    if not shape:
        raise ExportError(f"{path.name}: input {tensor.name.decode()} has no batch dimension")
    return Spec(_dtype(path, tensor), (None, *shape[1:]))


def _name(graph: Any, number: int) -> str:
    name = graph.tensors[number].name
    return name.decode().split(":")[0].replace("/", "_") if name else f"tensor_{number}"


def _activated(x: Any, kind: int) -> Any:
    import tensorflow as tf

    known: dict[int, Callable[[Any], Any]] = {0: lambda y: y, 1: tf.nn.relu, 3: tf.nn.relu6, 4: tf.tanh}
    if kind not in known:
        raise ExportError(f"fused activation {kind} is not supported")
    return known[kind](x)


def _convolution(inputs: Tensors, options: Any) -> Any:
    import tensorflow as tf

    x, kernel, bias = (*inputs, None)[:3]  # kernel [out, height, width, in]
    strides, dilations = [options.strideH, options.strideW], [options.dilationHFactor, options.dilationWFactor]
    y = tf.nn.conv2d(x, np.transpose(kernel, (1, 2, 3, 0)), strides, _PADDING[options.padding], dilations=dilations)
    return _activated(y if bias is None else tf.nn.bias_add(y, bias), options.fusedActivationFunction)


def _depthwise(inputs: Tensors, options: Any) -> Any:
    import tensorflow as tf

    x, kernel, bias = (*inputs, None)[:3]  # kernel [1, height, width, in * multiplier]
    _, height, width, _ = kernel.shape
    y = tf.nn.depthwise_conv2d(
        x,
        kernel.reshape(height, width, -1, options.depthMultiplier),
        [1, options.strideH, options.strideW, 1],
        _PADDING[options.padding],
        dilations=[options.dilationHFactor, options.dilationWFactor],
    )
    return _activated(y if bias is None else tf.nn.bias_add(y, bias), options.fusedActivationFunction)


def _transposed_with_bias(inputs: Tensors, options: bytes) -> Any:
    import tensorflow as tf

    x, kernel, bias = inputs  # kernel [out, height, width, in]
    padding, down, right = struct.unpack("<iii", options)
    kind = _LITE_PADDING[padding]
    filters, height, width, _ = kernel.shape
    batch, rows, columns, _ = tf.unstack(tf.shape(x))
    grown = (0, 0) if kind == "SAME" else (max(height - down, 0), max(width - right, 0))
    size = tf.stack([batch, rows * down + grown[0], columns * right + grown[1], filters])
    y = tf.nn.conv2d_transpose(x, np.transpose(kernel, (1, 2, 0, 3)), size, [down, right], kind)
    return tf.nn.bias_add(y, bias)


def _pool(function: str) -> Callable[[Tensors, Any], Any]:
    def pool(inputs: Tensors, options: Any) -> Any:
        import tensorflow as tf

        window, strides = [options.filterHeight, options.filterWidth], [options.strideH, options.strideW]
        y = getattr(tf.nn, function)(inputs[0], window, strides, _PADDING[options.padding])
        return _activated(y, options.fusedActivationFunction)

    return pool


def _resize_bilinear(inputs: Tensors, options: Any) -> Any:
    import tensorflow as tf

    return tf.raw_ops.ResizeBilinear(
        images=inputs[0],
        size=inputs[1],
        align_corners=options.alignCorners,
        half_pixel_centers=options.halfPixelCenters,
    )


def _binary(function: str) -> Callable[[Tensors, Any], Any]:
    def binary(inputs: Tensors, options: Any) -> Any:
        import tensorflow as tf

        return _activated(getattr(tf, function)(*inputs), options.fusedActivationFunction)

    return binary


def _unary(function: str) -> Callable[[Tensors, Any], Any]:
    def unary(inputs: Tensors, _: Any) -> Any:
        import tensorflow as tf

        return getattr(tf.nn, function)(inputs[0])

    return unary


def _hard_swish(inputs: Tensors, _: Any) -> Any:
    import tensorflow as tf

    return inputs[0] * tf.nn.relu6(inputs[0] + 3.0) * (1.0 / 6.0)


OPERATORS: Mapping[str, Callable[[Tensors, Any], Any]] = {
    "ADD": _binary("add"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": lambda inputs, _: inputs[0],  # float16 weights, which are float32 here from the start
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _unary("sigmoid"),
    "MAX_POOL_2D": _pool("max_pool2d"),
    "MUL": _binary("multiply"),
    "RELU": _unary("relu"),
    "RELU6": _unary("relu6"),
    "RESIZE_BILINEAR": _resize_bilinear,
    "SUB": _binary("subtract"),
    "TANH": _unary("tanh"),
    TRANSPOSED_WITH_BIAS: _transposed_with_bias,
}
"""What each operator computes from its inputs and options."""
