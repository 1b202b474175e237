"""The Vision Transformer as a Keras 3 model, and where each tensor of a Hugging Face file goes. Imports Keras.

Architecture: Dosovitskiy et al., An Image is Worth 16x16 Words (arXiv:2010.11929). Each layer with weights is named as
its module in transformers' `ViTForImageClassification`: `kernel` of `vit.encoder.layer.0.output.dense` is the file's
`vit.encoder.layer.0.output.dense.weight`.

Between the layers are rows [batch * tokens, width], not [batch, tokens, width]: a product of matrices with its bias and
activation is then one operation of TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import layers, ops

from servekit.errors import ExportError
from servekit.export.keras_settings import standard_layout
from servekit.export.recipe import Array

Config = Mapping[str, Any]
"""ViTConfig's settings by name, all that are read here; `image_size` and `patch_size` as (height, width)."""

_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}
"""Torch's axes in Keras's order, by their number: [out, in] of a Dense, [out, in, rows, columns] of a Conv2D."""
_TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def _gelu(x: Any) -> Any:
    return ops.gelu(x, approximate=False)


def _gelu_by_tanh(x: Any) -> Any:
    return ops.gelu(x, approximate=True)


ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_by_tanh,
    "gelu_fast": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "gelu_accurate": _gelu_by_tanh,
    "gelu_10": lambda x: ops.clip(_gelu(x), -10.0, 10.0),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "leaky_relu": lambda x: ops.leaky_relu(x, 0.01),
    "linear": lambda x: x,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "relu": ops.relu,
    "relu2": lambda x: ops.square(ops.relu(x)),
    "relu6": ops.relu6,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
}
"""transformers' ACT2FN, by its names."""


@keras.saving.register_keras_serializable("servekit")
class Embeddings(layers.Layer):  # type: ignore[misc]
    """Patches float32 [batch, rows, columns, width] → rows [batch * tokens, width], the class token first."""

    def build(self, shape: tuple[int | None, int, int, int]) -> None:
        _, rows, columns, self.width = shape
        self.tokens = rows * columns + 1
        self.cls_token = self.add_weight((1, 1, self.width), "zeros", name="cls_token")
        self.positions = self.add_weight((1, self.tokens, self.width), "zeros", name="position_embeddings")

    def call(self, patches: Any) -> Any:
        x = ops.reshape(patches, (-1, self.tokens - 1, self.width))
        first = ops.tile(self.cls_token, (ops.shape(x)[0], 1, 1))
        return ops.reshape(ops.concatenate([first, x], axis=1) + self.positions, (-1, self.width))


@keras.saving.register_keras_serializable("servekit")
class Attention(layers.Layer):  # type: ignore[misc]
    """Softmax attention among the tokens of an image, by head; without weights. Rows in, rows out."""

    def __init__(self, tokens: int, heads: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.tokens, self.heads = tokens, heads

    def call(self, query: Any, key: Any, value: Any) -> Any:
        width = query.shape[-1]
        size = width // self.heads

        def by_head(rows: Any, *axes: int) -> Any:
            return ops.transpose(ops.reshape(rows, (-1, self.tokens, self.heads, size)), axes)

        scores = ops.matmul(by_head(query, 0, 2, 1, 3), by_head(key, 0, 2, 3, 1))
        joined = ops.matmul(ops.softmax(scores * size**-0.5), by_head(value, 0, 2, 1, 3))
        return ops.reshape(ops.transpose(joined, (0, 2, 1, 3)), (-1, width))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tokens": self.tokens, "heads": self.heads}


@keras.saving.register_keras_serializable("servekit")
class HiddenAct(layers.Layer):  # type: ignore[misc]
    """One of ACTIVATIONS, by name."""

    def __init__(self, hidden_act: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.hidden_act = hidden_act

    def call(self, x: Any) -> Any:
        return ACTIVATIONS[self.hidden_act](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden_act": self.hidden_act}


@keras.saving.register_keras_serializable("servekit")
class ClassToken(layers.Layer):  # type: ignore[misc]
    """Rows [batch * tokens, width] → each image's first [batch, width]."""

    def __init__(self, tokens: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.tokens = tokens

    def call(self, rows: Any) -> Any:
        return ops.reshape(rows, (-1, self.tokens, rows.shape[-1]))[:, 0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tokens": self.tokens}


def loaded(config: Config, state: Mapping[str, Array]) -> Any:
    """The keras.Model with the weights of `state`: images float32 [batch, height, width, 3] → logits [batch, classes].

    Raises ExportError unless each tensor of `state` is one of the model's, of its shape, and none is missing.
    """
    classes = len(state["classifier.bias"])
    refuse_other_tensors(state, tensor_shapes(config, classes))  # before memory is taken for what config.json says
    model = vit(config, classes)
    for layer in model.layers:
        for variable in layer.weights:
            value = state[f"{layer.name}.{_TORCH_NAMES.get(variable.name, variable.name)}"]
            axes = _FROM_TORCH.get(value.ndim) if variable.name == "kernel" else None
            variable.assign(value.astype("float32", copy=False).transpose(axes or range(value.ndim)))
    return model


def refuse_other_tensors(state: Mapping[str, Array], shapes: Iterator[tuple[str, tuple[int, ...]]]) -> None:
    """Raises ExportError, with the tensor's name, unless `state` has just those of `shapes`, each of its shape."""
    unused = set(state)
    for name, shape in shapes:
        if name not in unused:
            raise ExportError(f"the weights lack {name}, which config.json asks for")
        if state[name].shape != shape:
            raise ExportError(f"{name} of the weights is {list(state[name].shape)}, config.json asks for {list(shape)}")
        unused.remove(name)
    if unused:
        raise ExportError(f"weights that config.json has no place for: {', '.join(sorted(unused))}")


def tensor_shapes(config: Config, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a `ViTForImageClassification`, in torch's layout."""
    width, inner = config["hidden_size"], config["intermediate_size"]

    def dense(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outputs, inputs)
        if bias:
            yield f"{name}.bias", (outputs,)

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)

    yield "vit.embeddings.patch_embeddings.projection.weight", (width, 3, *config["patch_size"])
    yield "vit.embeddings.patch_embeddings.projection.bias", (width,)
    yield "vit.embeddings.cls_token", (1, 1, width)
    yield "vit.embeddings.position_embeddings", (1, tokens(config), width)
    for index in range(config["num_hidden_layers"]):
        name = f"vit.encoder.layer.{index}"
        yield from norm(f"{name}.layernorm_before")
        for part in ("query", "key", "value"):
            yield from dense(f"{name}.attention.attention.{part}", width, width, bias=config["qkv_bias"])
        yield from dense(f"{name}.attention.output.dense", width, width)
        yield from norm(f"{name}.layernorm_after")
        yield from dense(f"{name}.intermediate.dense", inner, width)
        yield from dense(f"{name}.output.dense", width, inner)
    yield from norm("vit.layernorm")
    yield from dense("classifier", classes, width)


def tokens(config: Config) -> int:
    """The class token and one for each whole patch."""
    (rows, columns), (patch_rows, patch_columns) = config["image_size"], config["patch_size"]
    return int((rows // patch_rows) * (columns // patch_columns) + 1)


def vit(config: Config, classes: int) -> Any:
    """The keras.Model, its weights 0: to draw them at random would take seconds."""
    width, count = config["hidden_size"], tokens(config)

    def dense(x: Any, name: str, units: int = width, *, bias: bool = True) -> Any:
        return layers.Dense(units, use_bias=bias, kernel_initializer="zeros", name=name)(x)

    def norm(x: Any, name: str) -> Any:
        return layers.LayerNormalization(epsilon=config["layer_norm_eps"], name=name)(x)

    standard_layout()
    images = keras.Input((*config["image_size"], 3), name="images")
    x = layers.Conv2D(
        width,
        config["patch_size"],
        strides=config["patch_size"],
        data_format="channels_last",
        kernel_initializer="zeros",
        name="vit.embeddings.patch_embeddings.projection",
    )(images)
    x = Embeddings(name="vit.embeddings")(x)
    for index in range(config["num_hidden_layers"]):
        name = f"vit.encoder.layer.{index}"
        y = norm(x, f"{name}.layernorm_before")
        parts = [
            dense(y, f"{name}.attention.attention.{part}", bias=config["qkv_bias"])
            for part in ("query", "key", "value")
        ]
        y = Attention(count, config["num_attention_heads"], name=f"{name}.attention.attention")(*parts)
        x = x + dense(y, f"{name}.attention.output.dense")
        y = dense(norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense", config["intermediate_size"])
        x = x + dense(HiddenAct(config["hidden_act"], name=f"{name}.hidden_act")(y), f"{name}.output.dense")
    x = norm(ClassToken(count, name="class_token")(x), "vit.layernorm")
    return keras.Model(images, dense(x, "classifier", classes), name="vit")
