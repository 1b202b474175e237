"""Folds batch normalisation into the convolution before it, in a traced network's GraphDef.

In inference, conv(x) · scale + shift with constant scale and shift equals a convolution with scaled kernels and a bias:
the same answers (to rounding) at up to 1.6 times the speed. It does not matter how a framework spells it: one fused
operation, or the multiplications and additions that Keras 3 writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from servekit.export.graph import Traced
from servekit.export.recipe import Array

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_NORMALISATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_SCALES = ("Mul", *_NORMALISATIONS)
_CHANGEABLE = ("Placeholder", "NoOp", "VarHandleOp", "VariableV2", "ReadVariableOp", "Assert")
"""Operations whose result is not known from the graph; what reads none of them is constant."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Operations behind a convolution, first to last, that together are x · scale + shift for each channel."""

    convolution: Any
    links: tuple[Any, ...]


def fold_batch_norm(traced: Traced) -> tuple[Traced, int]:
    """The network with every foldable scale behind a convolution folded, and how many there were.

    Foldable: channels last, constant kernel and parameters, inference mode, and nothing else reads what is in between.
    A graph with TF1 loops is left alone: a new constant would lie outside of the loop whose operation reads it.
    """
    if any(node.op == "Enter" for node in traced.graph.node):
        return traced, 0
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(traced.graph)
    constant = _constant_names({node.name: node for node in graph.node})
    for node in graph.node:
        if node.op == "NoOp":  # waits for every weight that a Keras model has read, the replaced ones too
            waits = [name for name in node.input if _node(name) not in constant]
            del node.input[:]
            node.input.extend(waits)
    chains = _chains(graph, constant, {_node(name) for name in traced.outputs.values()})
    values = _evaluate(graph, {name for chain in chains for name in _parameters(chain, constant)})
    chains = [kept for chain in chains if (kept := _by_channel(chain, constant, values)) is not None]
    for chain in chains:
        scale, shift = _scale_and_shift(chain, constant, values)
        kernel = values[chain.convolution.input[1]]
        depthwise = chain.convolution.op == "DepthwiseConv2dNative"
        by_filter = scale.reshape(kernel.shape[2:] if depthwise else (1, -1))
        last, prefix = chain.links[-1], chain.links[-1].name
        graph.node.append(_const_node(f"{prefix}/folded_kernel", (kernel * by_filter).astype(kernel.dtype)))
        graph.node.append(_const_node(f"{prefix}/folded_bias", shift.astype(kernel.dtype)))
        chain.convolution.input[1] = f"{prefix}/folded_kernel"
        _become_bias_add(last, chain.convolution, f"{prefix}/folded_bias")
    return replace(traced, graph=pruned(graph, traced)), len(chains)


def _chains(graph: Any, constant: set[str], outputs: set[str]) -> list[_Chain]:
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in _data_inputs(node):
            readers[_node(name)].append(node)
    found = []
    for convolution in graph.node:
        if convolution.op not in _CONVOLUTIONS or not _channels_last(convolution):
            continue
        if _node(convolution.input[1]) not in constant:
            continue
        links: list[Any] = []
        node = convolution
        while node.name not in outputs and len(readers[node.name]) == 1:
            (following,) = readers[node.name]
            if not _is_link(following, node.name, constant):
                break
            links.append(following)
            node = following
        if links:
            found.append(_Chain(convolution, tuple(links)))
    return found


def _is_link(node: Any, before: str, constant: set[str]) -> bool:
    """Whether `node` scales or shifts `before` by constants of one number a channel."""
    inputs = _data_inputs(node)
    if node.op in _NORMALISATIONS:
        inference = not node.attr["is_training"].b and _channels_last(node)
        return inference and _node(inputs[0]) == before and all(_node(name) in constant for name in inputs[1:5])
    if node.op in ("BiasAdd", "Sub"):
        return _channels_last(node) and _node(inputs[0]) == before and _node(inputs[1]) in constant
    if node.op in ("Mul", "AddV2", "Add"):
        return sum(_node(name) in constant for name in inputs) == 1
    return False


def _parameters(chain: _Chain, constant: set[str]) -> list[str]:
    """Tensor names of the kernel and of every constant that the chain's links read."""
    links = (name for link in chain.links for name in _data_inputs(link) if _node(name) in constant)
    return [chain.convolution.input[1], *links]


def _by_channel(chain: _Chain, constant: set[str], values: Mapping[str, Array]) -> _Chain | None:
    """The chain up to the first parameter that is not one number a channel; None when nothing is left to scale."""
    channels = _channels(chain, values)
    links: list[Any] = []
    for link in chain.links:
        parameters = [values[name] for name in _data_inputs(link) if _node(name) in constant]
        if not all(p.size == 1 or (p.size == channels and p.shape[-1] == channels) for p in parameters):
            break
        links.append(link)
    # A bias alone is as quick as it gets.
    return replace(chain, links=tuple(links)) if any(link.op in _SCALES for link in links) else None


def _channels(chain: _Chain, values: Mapping[str, Array]) -> int:
    depthwise = chain.convolution.op == "DepthwiseConv2dNative"
    shape: tuple[int, ...] = values[chain.convolution.input[1]].shape
    return shape[2] * shape[3] if depthwise else shape[3]


def _scale_and_shift(chain: _Chain, constant: set[str], values: Mapping[str, Array]) -> tuple[Array, Array]:
    """float64 [channels] each."""
    channels = _channels(chain, values)
    scale, shift = np.ones(channels), np.zeros(channels)
    for link in chain.links:
        parameters = [
            np.broadcast_to(values[name].astype(np.float64).reshape(-1), (channels,))
            for name in _data_inputs(link)
            if _node(name) in constant
        ]
        if link.op in _NORMALISATIONS:
            gamma, beta, mean, variance = parameters[:4]
            factor = gamma / np.sqrt(variance + link.attr["epsilon"].f)
            scale, shift = scale * factor, (shift - mean) * factor + beta
        elif link.op == "Mul":
            scale, shift = scale * parameters[0], shift * parameters[0]
        else:
            shift = shift - parameters[0] if link.op == "Sub" else shift + parameters[0]
    return scale, shift


def _constant_names(nodes: Mapping[str, Any]) -> set[str]:
    """Nodes that give the same at every run: no input of theirs leads to a placeholder or a variable."""
    known: dict[str, bool] = {}

    def is_constant(start: str) -> bool:
        waiting = [start]
        while waiting:
            name = waiting[-1]
            inputs = [_node(tensor) for tensor in _data_inputs(nodes[name])]
            unknown = [tensor for tensor in inputs if tensor not in known]
            if name in known or not unknown:
                waiting.pop()
                fixed = nodes[name].op not in _CHANGEABLE and (bool(inputs) or nodes[name].op == "Const")
                known.setdefault(name, fixed and all(known[tensor] for tensor in inputs))
            else:
                waiting.extend(unknown)
        return known[start]

    return {name for name in nodes if is_constant(name)}


def _evaluate(graph: Any, names: set[str]) -> dict[str, Array]:
    """Values of constant tensors, by the names that nodes call them."""
    ordered = sorted(names)
    with tf.Graph().as_default() as evaluated, tf.compat.v1.Session(graph=evaluated) as session:
        tf.import_graph_def(graph, name="")
        values = session.run([name if ":" in name else f"{name}:0" for name in ordered])
    return dict(zip(ordered, values, strict=True))


def _channels_last(node: Any) -> bool:
    return node.attr["data_format"].s in (b"", b"NHWC")


def _data_inputs(node: Any) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _node(tensor_name: str) -> str:
    return tensor_name.lstrip("^").split(":")[0]


def _const_node(name: str, value: Array) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.dtypes.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node


def _become_bias_add(last: Any, convolution: Any, bias: str) -> None:
    """In place: whoever reads the end of the chain reads the sum now."""
    dtype = convolution.attr["T"].type
    last.op = "BiasAdd"
    del last.input[:]
    last.input.extend([convolution.name, bias])
    last.attr.clear()
    last.attr["T"].type = dtype
    last.attr["data_format"].s = b"NHWC"


def pruned(graph: Any, traced: Traced) -> Any:
    """Without the nodes that no output needs. Inputs stay, read or not."""
    nodes = {node.name: node for node in graph.node}
    waiting = [_node(name) for name in (*traced.outputs.values(), *traced.inputs.values())]
    kept: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting.extend(_node(tensor) for tensor in nodes[name].input)
    pruned = [node for node in graph.node if node.name in kept]
    del graph.node[:]
    graph.node.extend(pruned)
    return graph
