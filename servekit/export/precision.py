"""Convolutions and matrix products in bfloat16: 8 bits of mantissa instead of 24, half the bytes. Imports TensorFlow.

Processors with AVX512_BF16 or AMX compute it up to four times as fast as float32. Others give the same answers slowly:
oneDNN and Eigen convert there. What is computed between bfloat16 operations stays bfloat16 where that is one operation
with them (bias, activation, residual sum); all else, and the last product before an output, stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from servekit.export.fold import pruned
from servekit.export.graph import Traced

_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2")
_FUSED = ("BiasAdd", "AddV2", "Add", "Relu", "Relu6", "Identity")
"""What TensorFlow makes one operation of with the product before it."""
_FLOAT32 = tf.float32.as_datatype_enum
_BFLOAT16 = tf.bfloat16.as_datatype_enum


def in_bfloat16(traced: Traced) -> tuple[Traced, int]:
    """The network with its products in bfloat16, and how many there were. Inputs and outputs keep their types."""
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(traced.graph)
    nodes = {node.name: node for node in graph.node}
    lowered = _lowered(nodes, traced)
    casts: dict[tuple[str, int], Any] = {}
    for node in graph.node:
        for index in _typed_inputs(node) if node.name in lowered else range(len(node.input)):
            name = node.input[index]
            wanted = _BFLOAT16 if node.name in lowered else _FLOAT32
            if not name.startswith("^") and (_node(name) in lowered) != (node.name in lowered):
                cast = casts.setdefault((name, wanted), _cast(name, wanted, nodes))
                node.input[index] = cast.name
    for name in lowered:
        nodes[name].attr["T"].type = _BFLOAT16
    graph.node.extend(casts.values())
    count = sum(nodes[name].op in _PRODUCTS for name in lowered)
    return replace(traced, graph=pruned(graph, traced)), count


def _lowered(nodes: Mapping[str, Any], traced: Traced) -> set[str]:
    """Names of the products, except the last before an output, and of what is fused with them."""
    last = _last_products(nodes, traced)
    found = {name for name, node in nodes.items() if node.op in _PRODUCTS and _is_float32(node) and name not in last}
    outputs = {_node(name) for name in traced.outputs.values()}
    growing = True
    while growing:
        growing = False
        for name, node in nodes.items():
            if name in found or name in outputs or node.op not in _FUSED or not _is_float32(node):
                continue
            sources = [_node(node.input[index]) for index in _typed_inputs(node)]
            inside = [source in found for source in sources]
            if any(inside) and all(
                ok or nodes[source].op == "Const" for ok, source in zip(inside, sources, strict=True)
            ):
                found.add(name)
                growing = True
    return found


def _last_products(nodes: Mapping[str, Any], traced: Traced) -> set[str]:
    waiting = [_node(name) for name in traced.outputs.values()]
    seen: set[str] = set()
    found = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if nodes[name].op in _PRODUCTS:
            found.add(name)
        else:
            waiting.extend(_node(source) for source in nodes[name].input)
    return found


def _typed_inputs(node: Any) -> list[int]:
    """Indices of the inputs whose type is the node's own (`T`): not shapes, axes, control."""
    arguments = op_def_registry.get(node.op).input_arg
    return [index for index, argument in enumerate(arguments) if argument.type_attr == "T"]


def _is_float32(node: Any) -> bool:
    return bool(node.attr["T"].type == _FLOAT32)


def _cast(source: str, wanted: int, nodes: Mapping[str, Any]) -> Any:
    """A constant is converted here, so that a weight is stored in the type that is computed with."""
    suffix = "bfloat16" if wanted == _BFLOAT16 else "float32"
    name = f"{source.replace(':', '_')}/{suffix}"
    constant = nodes[_node(source)]
    while constant.op == "Identity":  # what reading a variable has become
        constant = nodes[_node(constant.input[0])]
    if constant.op == "Const" and wanted == _BFLOAT16:
        value = tf.make_ndarray(constant.attr["value"].tensor).astype(tf.bfloat16.as_numpy_dtype)
        node = tf.compat.v1.NodeDef(name=name, op="Const", input=list(constant.input))
        node.attr["dtype"].type = _BFLOAT16
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        return node
    node = tf.compat.v1.NodeDef(name=name, op="Cast", input=[source])
    node.attr["SrcT"].type = _FLOAT32 if wanted == _BFLOAT16 else _BFLOAT16
    node.attr["DstT"].type = wanted
    return node


def _node(tensor_name: str) -> str:
    return tensor_name.lstrip("^").split(":")[0]
