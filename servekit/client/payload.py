"""What a person types or names as a file, turned into inputs of a signature."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servekit.client.answers import Signature, TensorSpec
from servekit.errors import ExitCode, ServekitError

_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"BM": "bmp"}


class PayloadError(ServekitError):
    """What was given cannot be sent."""

    exit_code = ExitCode.USAGE


def image_format(data: bytes) -> str | None:
    """jpeg, png, gif, bmp or webp by the first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)


def image_input(model: str, signature: Signature) -> TensorSpec:
    """The signature's only input, if it takes bytes. Raises PayloadError."""
    inputs = list(signature.inputs.values())
    if len(inputs) == 1 and inputs[0].dtype == "DT_STRING":
        return inputs[0]
    raise PayloadError(f"{model} takes {_listed(inputs)}, not image files", hint=_example(model, inputs))


def output_filter(model: str, signature: Signature | None, wanted: Sequence[str]) -> tuple[str, ...]:
    """The outputs to ask for, () for all; the flag `valid` comes along. Raises PayloadError for an unknown one."""
    known = signature.outputs if signature else {}
    if signature and (unknown := [name for name in wanted if name not in known]):
        raise PayloadError(f"{model} has no output {unknown[0]}; it has {', '.join(sorted(known))}")
    flag = ["valid"] if wanted and "valid" in known and "valid" not in wanted else []
    return (*dict.fromkeys(wanted), *flag)


def read_image(path: Path) -> bytes:
    """`-` is standard input. Raises PayloadError when there is no such file or it is no image.

    The decoder in the model has the last word.
    """
    is_stdin = str(path) == "-"
    if is_stdin and sys.stdin.isatty():
        raise PayloadError("-: an image is expected on standard input", hint="servekit predict MODEL - < photo.jpg")
    data, name = (sys.stdin.buffer.read(), "standard input") if is_stdin else (_read(path), str(path))
    if image_format(data) is None:
        what = "no image" if data else "empty" if is_stdin else "an empty file"
        raise PayloadError(f"{name}: {what}; JPEG, PNG or WebP is expected", hint="tensors: --input or --instances")
    return data


def instances(text: str, signature: Signature | None) -> dict[str, Any]:
    """TF Serving's row format: a list of values (one input) or of `{"name": value}`, to columns by input name."""
    rows = json_or_file(text, "--instances")
    if isinstance(rows, Mapping) and set(rows) == {"instances"}:
        rows = rows["instances"]
    if not isinstance(rows, list) or not rows:
        raise PayloadError("--instances: a JSON list with at least one instance is expected")
    if all(isinstance(row, Mapping) for row in rows) and not _is_b64(rows[0]):
        if any(set(row) != set(rows[0]) for row in rows):
            raise PayloadError(f"--instances: every instance needs the same names: {', '.join(rows[0])}")
        return {name: [row[name] for row in rows] for name in rows[0]}
    names = list(signature.inputs) if signature else []
    if len(names) != 1:
        raise PayloadError(f"--instances: objects with the names {', '.join(names)} are expected")
    return {names[0]: rows}


def named_inputs(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=JSON` or `name=FILE.json`, one value with its batch dimension each."""
    inputs = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise PayloadError(f"--input {pair}: NAME=JSON or NAME=FILE.json is expected")
        if name in inputs:
            raise PayloadError(f"--input {name}: given twice")
        inputs[name] = json_or_file(text, f"--input {name}")
    return inputs


def json_or_file(text: str, option: str) -> Any:
    """The JSON in the file of that name, or `text` as JSON; `{"b64": …}` becomes bytes."""
    source = ""
    if text.lstrip()[:1] not in ("[", "{", '"') and (Path(text).suffix or Path(text).exists()) and not _is_number(text):
        source, text = f" {text}:", _read(Path(text)).decode(errors="replace")
    try:
        return _decoded(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PayloadError(f"{option}:{source} not JSON: {error}") from None
    except binascii.Error as error:
        raise PayloadError(f"{option}:{source} not base64: {error}") from None


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if _is_b64(value):
        return base64.b64decode(value["b64"], validate=True)
    return {name: _decoded(item) for name, item in value.items()} if isinstance(value, dict) else value


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PayloadError(f"{path}: {error.strerror}") from None


def _listed(inputs: Sequence[TensorSpec]) -> str:
    texts = (
        f"{spec.name} ({spec.dtype} {'of any shape' if spec.shape is None else list(spec.shape)})" for spec in inputs
    )
    return ", ".join(texts) or "no inputs"


def _example(model: str, inputs: Sequence[TensorSpec]) -> str:
    if len(inputs) == 1 and inputs[0].dtype == "DT_FLOAT" and len(inputs[0].shape or ()) == 1:
        return f"servekit predict {model} --instances '[1.0, 2.0]'"
    pairs = " ".join(f"--input {spec.name}=FILE.json" for spec in inputs)
    return f"servekit predict {model} {pairs}"
