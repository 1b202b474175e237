"""The first layers of a network over a batch in pieces, so that what lies between them stays in the processor's cache.

The first layers of an image network have few weights and large activations: EfficientNet-Lite0's second convolution
gives 4.8 MB an image, 38 MB for a batch of 8, which memory has to take and give back at each layer. Two images at a
time it is the cache. The same operations in the same order for each image, by up to an eighth quicker. Imports
TensorFlow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from servekit.export.fold import pruned
from servekit.export.graph import Traced

PIECES = 4
"""At most, of equal size but for the last; of a batch of fewer images each is one."""
_WEIGHTS_BYTES = 500_000
"""Of the layers that run in pieces, at most: each piece reads them again, and its kernels keep their own copies."""
_ACTIVATION_BYTES = 1_000_000
"""Of one image, at least, behind some layer; smaller ones stay in the cache as they are."""
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_EACH_IMAGE_ALONE = (*_CONVOLUTIONS, "BiasAdd", "Relu", "Relu6", "AddV2", "Add", "Cast", "Identity")
"""Operations whose answer for one image does not look at the others."""


def in_pieces(traced: Traced) -> tuple[Traced, bool]:
    """The network with its first layers in pieces, and whether it has such layers. Weights stay single."""
    cut = _cut(traced)
    if cut is None:
        return traced, False
    ((alias, source),) = traced.inputs.items()
    outputs = list(traced.outputs.values())
    with tf.Graph().as_default() as graph:
        given = tf.compat.v1.placeholder(tf.float32, _tensors(traced)[source].shape, name=alias)
        shared = _constants(traced)
        between = _piecewise(given, lambda piece: _imported(traced, {source: piece, **shared}, [cut])[0])
        found = _imported(traced, {cut: between, **shared}, outputs)
        done = Traced(
            graph.as_graph_def(),
            {alias: given.name},
            dict(zip(traced.outputs, (tensor.name for tensor in found), strict=True)),
            traced.single,
        )
    return replace(done, graph=pruned(done.graph, done)), True


def _piecewise(images: Any, function: Callable[[Any], Any]) -> Any:
    """function(images), of one piece after the other: beside each other they would drive each other from the cache."""
    count = tf.shape(images)[0]
    step = (count + PIECES - 1) // PIECES
    done = [function(images[:step])]
    for number in range(1, PIECES):
        start, end = tf.minimum(number * step, count), tf.minimum((number + 1) * step, count)
        with tf.control_dependencies([done[-1]]):
            piece = images[start:end]
        # By hand, because tf.cond would pass the weights through its branch, where they are constants no longer and
        # nothing is fused with the convolutions. What follows a Switch that was not taken does not run.
        _, taken = tf.raw_ops.Switch(data=piece, pred=end > start)
        some = function(tf.ensure_shape(taken, images.shape))
        empty, _ = tf.raw_ops.Switch(data=tf.zeros([0, *some.shape[1:]], some.dtype), pred=end > start)
        either, _ = tf.raw_ops.Merge(inputs=[some, empty])
        done.append(tf.ensure_shape(either, some.shape))
    return tf.concat(done, axis=0)


def _cut(traced: Traced) -> str | None:
    """Near the input, the smallest tensor [batch, ...] between two layers on which all that follows depends alone."""
    if len(traced.inputs) != 1 or traced.has_tf1_control_flow():
        return None
    tensors = _tensors(traced)
    (source,) = traced.inputs.values()
    if tensors[source].dtype != tf.float32 or not _bytes_an_image(tensors[source]):
        return None
    weights = {name: value.nbytes for name, value in traced.weights().items()}
    found, read, largest, smallest = None, 0, 0, math.inf
    for name, passed, before_layer in _bottlenecks(traced, source):
        read += sum(weights.get(_node(tensor), 0) for node in passed for tensor in node.input)
        sizes = [_bytes_an_image(tensors[f"{node.name}:0"]) for node in passed]
        if read > _WEIGHTS_BYTES or 0 in sizes:
            break
        largest = max(largest, *sizes)
        if before_layer and sizes[-1] <= smallest:
            found, smallest = name, sizes[-1]
    return found if largest >= _ACTIVATION_BYTES else None


def _bottlenecks(traced: Traced, source: str) -> Iterator[tuple[str, list[Any], bool]]:
    """Tensors, from the input on, through which everything goes; each with the nodes since the one before, and whether
    a convolution reads it (elsewhere a cut would part operations that TensorFlow makes one of)."""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in traced.graph.node:
        for name in node.input:
            readers[_node(name)].append(node)
    known = {node.name for node in traced.graph.node if node.op == "Const"} | {_node(source)}
    outputs = {_node(name) for name in traced.outputs.values()}
    waited_for = {_node(source)}
    passed: list[Any] = []
    while not waited_for & outputs:
        following = (node for name in sorted(waited_for) for node in readers[name] if node.name not in known)
        ready = (node for node in following if node.op in _EACH_IMAGE_ALONE and {*map(_node, node.input)} <= known)
        if (node := next(ready, None)) is None:
            return
        known.add(node.name)
        passed.append(node)
        waited_for = {
            name for name in {*waited_for, node.name} if any(reader.name not in known for reader in readers[name])
        }
        if waited_for == {node.name}:
            yield f"{node.name}:0", passed, any(reader.op in _CONVOLUTIONS for reader in readers[node.name])
            passed = []


def _tensors(traced: Traced) -> dict[str, Any]:
    """With types and shapes, by name."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(traced.graph, name="")
        return {tensor.name: tensor for operation in graph.get_operations() for tensor in operation.outputs}


def _bytes_an_image(tensor: Any) -> int:
    """Of [batch, rows, columns, channels]; 0 for another shape, and where more than the batch may differ."""
    shape = tensor.shape
    if shape.rank != 4 or shape[0] is not None or not shape[1:].is_fully_defined():
        return 0
    return int(tensor.dtype.size * shape[1:].num_elements())


def _constants(traced: Traced) -> dict[str, Any]:
    """Brings all constants into the graph under construction: tensors by the names that the network calls them."""
    part = tf.compat.v1.GraphDef(versions=traced.graph.versions)
    part.node.extend(node for node in traced.graph.node if node.op == "Const" and not node.input)
    names = [f"{node.name}:0" for node in part.node]
    return dict(zip(names, tf.import_graph_def(part, return_elements=names, name=""), strict=True))


def _imported(traced: Traced, ends: Mapping[str, Any], outputs: list[str]) -> list[Any]:
    """The nodes between `ends`, tensors by the names that they replace, and `outputs`."""
    nodes = {node.name: node for node in traced.graph.node}
    replaced = {_node(name) for name in ends}
    waiting = [_node(name) for name in outputs]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in needed | replaced:
            needed.add(name)
            waiting.extend(_node(tensor) for tensor in nodes[name].input)
    part = tf.compat.v1.GraphDef(versions=traced.graph.versions, library=traced.graph.library)
    part.node.extend(node for node in traced.graph.node if node.name in needed)
    read = {_node(name) for node in part.node for name in node.input} | {_node(name) for name in outputs}
    used = {name: tensor for name, tensor in ends.items() if _node(name) in read}
    found: list[Any] = tf.import_graph_def(part, used, outputs, name="network")
    return found


def _node(tensor_name: str) -> str:
    return tensor_name.lstrip("^").split(":")[0]
