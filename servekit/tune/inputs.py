"""What a tuning is about: the model alone, the requests it is asked with, and what tells one tuning from another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit import __version__
from servekit.bench.payload import inputs_of, requests
from servekit.bench.session import machine
from servekit.client import Client
from servekit.client.payload import PayloadError
from servekit.config.folders import published_versions, served_versions
from servekit.config.models import Specific
from servekit.config.serving import Serving
from servekit.errors import ServekitError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec
from servekit.paths import Bundle
from servekit.tune.arena import Load


@dataclass(frozen=True, slots=True)
class Asked:
    """`images` may be none: random tensors of the signature, or the bundle's photographs where it takes images."""

    model: str
    version: int
    signature: str
    protocol: str
    batch: int
    images: tuple[Path, ...]


def version_of(serving: Serving, bundle: Bundle, model: str, *, label: str | None, version: int | None) -> int:
    """The one that is asked for, else the one that requests without a version get. Raises ServekitError."""
    if model not in serving.models:
        known = ", ".join(serving.models)
        raise ServekitError(f"{model} is not in config/serving.yaml, which has {known}", hint=f"servekit tune {known}")
    entry = serving.models[model]
    published = published_versions(Path(entry.folder(model, bundle.models))) or set()
    if label is not None and label not in entry.labels:
        raise ServekitError(f"{model} has no label {label}", hint=f"labels: {', '.join(entry.labels) or 'none'}")
    wanted = entry.labels[label] if label is not None else version
    if wanted is None:
        wanted = max(served_versions(entry, published), default=None)
    if wanted is None or wanted not in published:
        what = "no version" if wanted is None else f"no version {wanted}"
        raise ServekitError(f"{model} has {what} on disk", hint=f"servekit export {model} --version {wanted or 1}")
    return wanted


def alone(serving: Serving, model: str, version: int) -> Serving:
    """Only that version of that model: it starts soonest, and nothing else takes memory."""
    entry = serving.models[model].model_copy(
        update={"versions": Specific(specific=(version,)), "labels": {}, "canary": None}
    )
    return serving.model_copy(update={"models": {model: entry}})


def preparing(asked: Asked, bundle: Bundle, tell: Callable[[str], None]) -> Callable[[Client], Load]:
    """Makes the requests from the signature that a server tells. Raises ServekitError, PayloadError."""

    def prepare(client: Client) -> Load:
        spec = ModelSpec(asked.model, signature_name=asked.signature)
        found = client.metadata(spec).signature(asked.signature)
        if found is None:
            name = asked.signature or DEFAULT_SIGNATURE
            raise ServekitError(f"{asked.model} has no signature {name}", hint=f"servekit inspect {asked.model}")
        try:
            inputs = inputs_of(asked.model, found, asked.images, asked.batch)
        except PayloadError:
            samples = sorted(bundle.samples.glob("*.jpg"))
            if asked.images or not samples:
                raise
            inputs = inputs_of(asked.model, found, samples, asked.batch)
            tell(f"no images given: {len(samples)} photographs of {bundle.samples.relative_to(bundle.root)}")
        answer = client.predict(spec, inputs[0])
        valid = answer.outputs.get("valid")
        if valid is not None and not valid.all():
            raise ServekitError(f"{asked.model} cannot read these images", hint="servekit predict says which")
        return Load(asked.protocol, requests(spec, inputs), asked.batch)

    return prepare


def identity(asked: Asked, serving: Serving, bundle: Bundle, engine: Sequence[str], clients: int,
             slo_p99_ms: float | None) -> Mapping[str, Any]:  # fmt: skip
    """All that measurements depend on, as JSON can say it; not the budget: a larger one goes on with what is known."""
    folder = Path(serving.models[asked.model].folder(asked.model, bundle.models)) / str(asked.version)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "servekit": __version__,
        "machine": {key: value for key, value in machine().items() if key != "system"},
        "engine": list(engine),
        "model": [asked.model, asked.version, asked.signature, asked.protocol, asked.batch],
        "files": [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "images": [hashlib.sha256(path.read_bytes()).hexdigest() for path in asked.images],
        "settings": serving.model_dump(mode="json", include={"batching", "server"}),
        "clients": clients,
        "slo_p99_ms": slo_p99_ms,
    }
