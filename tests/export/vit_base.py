"""A ViT of base-16 size (86.6 million parameters) with weights drawn from a seed: too large for git, not for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]

WIDTH, LAYERS, INNER, CLASSES, SIDE, PATCH = 768, 12, 3072, 1000, 224, 16
SETTINGS: dict[str, Any] = {"num_labels": CLASSES}
"""For transformers' ViTConfig, whose defaults are base-16."""


def tensors() -> Tensors:
    """By Hugging Face's names. Products keep the size of their input; biases and norms are off 0 and 1."""
    random = np.random.default_rng(16)

    def normal(*shape: int, std: float, mean: float = 0.0) -> NDArray[np.float32]:
        values = random.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
        return np.asarray(values, np.float32)

    def dense(name: str, rows: int, columns: int) -> Tensors:
        return {
            f"{name}.weight": normal(rows, columns, std=columns**-0.5),
            f"{name}.bias": normal(rows, std=0.05),
        }

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": normal(WIDTH, std=0.1, mean=1.0), f"{name}.bias": normal(WIDTH, std=0.05)}

    embeddings = "vit.embeddings"
    found: Tensors = {
        f"{embeddings}.cls_token": normal(1, 1, WIDTH, std=0.5),
        f"{embeddings}.position_embeddings": normal(1, (SIDE // PATCH) ** 2 + 1, WIDTH, std=0.5),
        f"{embeddings}.patch_embeddings.projection.weight": normal(WIDTH, 3, PATCH, PATCH, std=(3 * PATCH**2) ** -0.5),
        f"{embeddings}.patch_embeddings.projection.bias": normal(WIDTH, std=0.05),
    }
    for index in range(LAYERS):
        layer = f"vit.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            found |= dense(f"{layer}.attention.attention.{part}", WIDTH, WIDTH)
        found |= dense(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        found |= dense(f"{layer}.intermediate.dense", INNER, WIDTH)
        found |= dense(f"{layer}.output.dense", WIDTH, INNER)
        found |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
    return found | norm("vit.layernorm") | dense("classifier", CLASSES, WIDTH)


def pixels() -> NDArray[np.float32]:
    """float32 [2, height, width, 3]."""
    return np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3), dtype=np.float32)


def write_safetensors(path: Path, weights: Tensors) -> None:
    """The format of https://huggingface.co/docs/safetensors: length and JSON of a header, then the bytes."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in weights.values():
            file.write(array.tobytes())
