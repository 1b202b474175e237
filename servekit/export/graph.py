"""From a Model to a SavedModel: one TF1 graph, every signature in it, every weight once. Imports TensorFlow.

The network is traced once into a GraphDef with its weights as constants. Each signature gets a copy of its nodes, but
all copies read the same weights, which stay constants (frozen: quicker, nothing to restore) or become variables. Built
as TF Serving reads it (TF1 graph and builder), the traps of saving Keras 3 objects do not arise: what the server
restores is exactly what was written, and method names are the ones declared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from servekit.errors import ExportError
from servekit.export.recipe import Array, Model, Network, Spec

GraphDef = Any
SMALL = 64
"""Constants of fewer elements (shapes, axes, epsilons) are part of the computation, not weights."""
FREEZE_LIMIT_BYTES = 64_000_000
"""More weights than this become variables. Each signature's first request optimises a graph that carries all constants:
ResNet50V2 (100 MB) needs 13 s of processor time for its warmup frozen, 6 s with variables, and answers no slower."""
ONLY_OUTPUT = "output"
_TF1_CONTROL_FLOW = {"Switch", "Merge", "Enter", "Exit", "NextIteration"}


@dataclass(frozen=True, slots=True)
class Traced:
    """A network as data. `inputs` and `outputs` are tensor names (`images:0`) by argument and by output name."""

    graph: GraphDef
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    single: bool
    """The function returned one tensor, not a dict."""

    def weights(self) -> dict[str, Array]:
        """Node name to value, in the graph's order."""
        return {
            node.name: tf.make_ndarray(node.attr["value"].tensor)
            for node in self.graph.node
            if node.op == "Const" and is_weight(node) and not node.input  # those of a TF1 loop or branch stay in it
        }

    def has_tf1_control_flow(self) -> bool:
        """Loops and branches made of operations. TensorFlow 2 must not add its own order to what is inside them."""
        return any(node.op in _TF1_CONTROL_FLOW for node in self.graph.node)


def is_weight(node: Any) -> bool:
    tensor = node.attr["value"].tensor
    return tensor.dtype != tf.string.as_datatype_enum and bool(
        np.prod([d.size for d in tensor.tensor_shape.dim]) >= SMALL
    )


def trace(network: Network) -> Traced:
    """Runs the network's Python once. Variables become constants, function calls are inlined."""
    specs = {name: tensor_spec(name, spec) for name, spec in network.inputs.items()}
    # Without autograph, which rewrites Python and wraps errors: a recipe's own line and message are what a user needs.
    function = tf.function(lambda **inputs: network.function(**inputs), autograph=False).get_concrete_function(**specs)
    returned = function.structured_outputs
    single = not isinstance(returned, Mapping)
    names = [ONLY_OUTPUT] if single else sorted(returned)
    # Freezing also inlines calls. It takes a second, so that a plain graph of constants is left alone.
    plain = not function.captured_inputs and not function.graph.as_graph_def().library.function
    frozen = function if plain else convert_variables_to_constants_v2(function)
    inputs = {tensor.name.split(":")[0]: tensor.name for tensor in frozen.inputs}
    if set(inputs) > set(specs):
        raise ExportError(
            "the network keeps state outside its weights, such as a lookup table, which cannot be wrapped",
            hint="serve it as it is: model.export('models/NAME/VERSION')",
        )
    if set(inputs) != set(specs):
        raise ExportError(f"the network's inputs are {sorted(specs)}, but its graph uses {sorted(inputs)}")
    outputs = dict(zip(names, (tensor.name for tensor in frozen.outputs), strict=True))
    traced = Traced(frozen.graph.as_graph_def(), inputs, outputs, single)
    return _traced_as_tf1(network, traced) if plain and traced.has_tf1_control_flow() else traced


def _traced_as_tf1(network: Network, traced: Traced) -> Traced:
    """Once more, in a graph without automatic control dependencies: between a loop's frames they make it endless."""
    with tf.Graph().as_default() as graph:
        placeholders = {
            name: tf.compat.v1.placeholder(tf.dtypes.as_dtype(spec.dtype), spec.shape, name=name)
            for name, spec in network.inputs.items()
        }
        returned = network.function(**placeholders)
        named = {ONLY_OUTPUT: returned} if traced.single else returned
        inputs = {name: tensor.name for name, tensor in placeholders.items()}
        outputs = {name: named[name].name for name in traced.outputs}
        return Traced(graph.as_graph_def(), inputs, outputs, traced.single)


def tensor_spec(name: str, spec: Spec) -> Any:
    return tf.TensorSpec(spec.shape, tf.dtypes.as_dtype(spec.dtype), name=name)


def run_once(traced: Traced, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The traced network's answers, in a Session of their own."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(traced.graph, name="")
        feeds = {traced.inputs[name]: value for name, value in inputs.items()}
        answers: dict[str, Array] = session.run(dict(traced.outputs), feeds)
        return answers


class SharedNetwork:
    """The traced network inside the graph under construction; each call adds its nodes, none adds weights."""

    def __init__(self, traced: Traced, *, freeze: bool) -> None:
        self._traced = traced
        self._compute = tf.compat.v1.GraphDef()
        self._compute.CopyFrom(traced.graph)
        self.initial: dict[Any, Array] = {}
        self._weights: dict[str, Any] = {}
        for name, value in traced.weights().items():
            if freeze:
                self._weights[f"{name}:0"] = tf.constant(value, name=f"weights/{name}")
            else:
                variable = tf.compat.v1.get_variable(
                    f"weights/{name}", shape=value.shape, dtype=value.dtype, use_resource=True, trainable=False
                )
                self.initial[variable] = value
                self._weights[f"{name}:0"] = variable.read_value()
        weights = {name.split(":")[0] for name in self._weights}
        kept = [node for node in traced.graph.node if node.name not in weights]
        del self._compute.node[:]
        self._compute.node.extend(kept)

    def __call__(self, **inputs: Any) -> Any:
        """Takes the network's inputs by name; returns what its function returned: a tensor, or a dict of them."""
        mapping = {**{self._traced.inputs[name]: tensor for name, tensor in inputs.items()}, **self._weights}
        here = tf.compat.v1.get_default_graph()
        if here.building_function:  # in a loop or a dataset's function; the weights lie outside
            mapping = {name: here.capture(tensor) for name, tensor in mapping.items()}
        if here.building_function and self._traced.has_tf1_control_flow():
            outputs = self._called(mapping)
        else:
            outputs = self._imported(mapping)
        if self._traced.single:
            return outputs[0]
        return dict(zip(self._traced.outputs, outputs, strict=True))

    def _imported(self, mapping: Mapping[str, Any]) -> list[Any]:
        outputs: list[Any] = tf.import_graph_def(
            self._compute, dict(mapping), list(self._traced.outputs.values()), name="network"
        )
        return outputs

    def _called(self, mapping: Mapping[str, Any]) -> list[Any]:
        """As a function of its own, which TensorFlow 2 leaves as it is."""
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in mapping.values()]
        function = tf.compat.v1.wrap_function(
            lambda *tensors: self._imported(dict(zip(mapping, tensors, strict=True))), specs
        )
        outputs: list[Any] = function(*mapping.values())
        return outputs


def save(model: Model, traced: Traced | None, folder: Path, *, freeze: bool) -> bool:
    """Writes the SavedModel (tag `serve`) into `folder`, which must not exist. Returns whether weights were frozen."""
    if traced is not None and traced.graph.ByteSize() > FREEZE_LIMIT_BYTES:
        freeze = False
    saved_model = tf.compat.v1.saved_model
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        network = None if traced is None else SharedNetwork(traced, freeze=freeze)
        signatures = {name: _signature(name, model, network) for name in model.signatures}
        if network is not None:
            # In one run: each would optimise the whole graph anew, a minute for the 272 weights of ResNet50V2.
            feeds = {variable.initializer.inputs[1]: value for variable, value in network.initial.items()}
            session.run([variable.initializer for variable in network.initial], feeds)
        builder = saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, strip_default_attrs=True)
        _drop_shapes(builder.save(as_text=False))
    return freeze


def _drop_shapes(path: str | bytes) -> None:
    """Of every node's outputs, which the builder writes down and TensorFlow finds out by itself: 50 bytes a node."""
    document, file = saved_model_pb2.SavedModel(), Path(os.fsdecode(path))
    document.ParseFromString(file.read_bytes())
    for node in document.meta_graphs[0].graph_def.node:
        node.attr.pop("_output_shapes", None)
    file.write_bytes(document.SerializeToString(deterministic=True))


def _signature(name: str, model: Model, network: SharedNetwork | None) -> Any:
    signature = model.signatures[name]
    placeholders = {
        alias: tf.compat.v1.placeholder(tf.dtypes.as_dtype(spec.dtype), spec.shape, name=f"{name}_{alias}")
        for alias, spec in signature.inputs.items()
    }
    with tf.name_scope(name):
        outputs = signature.function(network, **placeholders)
        outputs = {alias: tf.identity(tensor, name=alias) for alias, tensor in outputs.items()}
    info = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        {alias: info(tensor) for alias, tensor in placeholders.items()},
        {alias: info(tensor) for alias, tensor in outputs.items()},
        f"tensorflow/serving/{signature.method}",
    )
