"""Writes small ViTs as Hugging Face saves them, with torch's own answers: `tests/export/vit/`.

    python3.11 -m venv somewhere; somewhere/bin/pip install torch==2.13.0 transformers==5.23.0 pillow
    somewhere/bin/python tests/export/make_vit_reference.py                 rewrites tests/export/vit/

Weights are random. Biases and norms are moved off their fresh values (0 and 1), so that a loader that forgets one gives
other answers. `reference.npz`: pixels float32 [2, height, width, 3], logits [2, classes]; photo_pixels and photo_logits
are the processor's and the model's for export/samples/coffee.jpg. Of base-16 (vit_base.py makes its weights anew) only
config, processor and answers are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification  # type: ignore[import-not-found]
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import vit_base  # type: ignore[import-not-found]  # noqa: E402

PHOTO = HERE.parents[1] / "export" / "samples" / "coffee.jpg"
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "id2label": {0: "espresso", 1: "cat", 2: "rocket", 3: "tulip", 4: "daisy", 5: "rose"},
}
_OTHER: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": (32, 48),
    "patch_size": (8, 12),
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-3,
    "qkv_bias": False,
    "id2label": {0: "no", 1: "yes"},
}


def perturb(model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
            elif "layernorm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "cls_token" in name or "position" in name:
                parameter.normal_(0, 0.5)
            else:
                parameter.mul_(6)  # logits of about 1


def write(folder: Path, settings: dict[str, Any], **processing: Any) -> None:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**settings)).eval()
    perturb(model)
    model.save_pretrained(folder)
    height, width = _sides(model.config)
    pixels = np.random.default_rng(1).standard_normal((2, 3, height, width)).astype(np.float32)
    record(folder, model, pixels, **processing)


def write_base(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as whole:
        ViTConfig(**vit_base.SETTINGS, architectures=["ViTForImageClassification"]).save_pretrained(whole)
        vit_base.write_safetensors(Path(whole, "model.safetensors"), vit_base.tensors())
        model, about = ViTForImageClassification.from_pretrained(whole, output_loading_info=True)
        if any(about.values()):
            sys.exit(f"not every weight was taken: {about}")
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    record(folder, model.eval(), vit_base.pixels().transpose(0, 3, 1, 2), keep_pixels=False)


def record(folder: Path, model: Any, pixels: Any, *, keep_pixels: bool = True, **processing: Any) -> None:
    height, width = _sides(model.config)
    processor = ViTImageProcessorPil(size={"height": height, "width": width}, **processing)
    processor.save_pretrained(folder)
    with Image.open(PHOTO) as photo:
        photo_pixels = np.asarray(processor([photo.convert("RGB")], return_tensors="np")["pixel_values"])
    with torch.no_grad():
        logits, photo_logits = (
            model(torch.from_numpy(np.ascontiguousarray(x))).logits.numpy() for x in (pixels, photo_pixels)
        )
    channels_last = (0, 2, 3, 1)
    images = {"pixels": pixels.transpose(channels_last), "photo_pixels": photo_pixels.transpose(channels_last)}
    answers = {"logits": logits, "photo_logits": photo_logits}
    np.savez_compressed(folder / "reference.npz", **(images | answers if keep_pixels else answers))
    print(folder.name, f"logits std {logits.std():.3f}", *sorted(path.name for path in folder.iterdir()))


def _sides(config: Any) -> tuple[int, int]:
    return config.image_size if isinstance(config.image_size, tuple) else (config.image_size,) * 2


def main() -> None:
    write_base(HERE / "vit" / "base")
    if "--base-only" in sys.argv:
        return
    write(HERE / "vit" / "small", _SMALL)
    write(HERE / "vit" / "other", _OTHER, resample=3, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


if __name__ == "__main__":
    main()
