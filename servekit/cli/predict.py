"""`servekit predict`: images, a folder of them, or JSON to a model; its answer as a table or as JSON."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.address import address, address_options
from servekit.cli.output import print_json
from servekit.errors import Code, ServekitError, StatusError
from servekit.model_spec import DEFAULT_SIGNATURE, ModelSpec

if TYPE_CHECKING:
    from servekit.client import Prediction, Signature
    from servekit.client.ranking import Ranking


@click.command(name="predict")
@click.argument("model")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[IMAGE|FOLDER|-]...")
@click.option("--label", metavar="LABEL", help="Ask the version that this label points at, such as canary.")
@click.option("--version", type=click.IntRange(0), metavar="N", help="Ask this version.  [default: the highest]")
@click.option("--signature", default="", metavar="NAME", help="Signature.  [default: serving_default]")
@click.option("--grpc/--rest", "grpc", default=None, help="Protocol.  [default: REST, or what --url says]")
@click.option(
    "--instances", metavar="JSON|FILE", help="TF Serving's row format: '[1.0, 2.0]' or '[{\"x\": 1.0}, ...]'."
)
@click.option("--input", "inputs", multiple=True, metavar="NAME=JSON|FILE", help="One input's value; may be repeated.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes to show for an image.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of a folder: the results, one JSON line an image. Otherwise: a `*_bytes` output.",
)
@click.option(
    "--output-filter",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Only this output of the model (and its flag `valid`); may be repeated.  [default: all]",
)
@click.option("--batch", type=click.IntRange(1, 1024), metavar="N", help="Folder: images a request.  [default: 8]")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Folder: requests at once.  [default: 2]")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder: write `*_bytes` outputs there, one file an image.",
)
@click.option("--retry-failed", is_flag=True, help="Folder: ask again about images whose line has an error.")
@click.option("--overwrite", is_flag=True, help="Folder: start --output again instead of going on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@address_options
def command(
    model: str,
    files: tuple[Path, ...],
    label: str | None,
    version: int | None,
    signature: str,
    grpc: bool | None,
    instances: str | None,
    inputs: tuple[str, ...],
    top: int,
    output: Path | None,
    wanted: tuple[str, ...],
    batch: int | None,
    parallel: int | None,
    output_dir: Path | None,
    retry_failed: bool,
    overwrite: bool,
    as_json: bool,
    url: str | None,
    host: str | None,
    port: int | None,
    timeout_s: float,
) -> None:
    """Send images (or JSON) to MODEL and show its answer.

    Several images go in one request; - is one on standard input. Exit status 1 when the server refuses, or when the
    model flags an image as one that it cannot read.

    A folder is searched for images, which go out in batches; --output gets one JSON line for each. The same command
    goes on where a stopped one ended. Exit status 1 when any image has no answer.

    \b
    servekit predict imagenet photo.jpg --label canary
    servekit predict imagenet a.jpg b.png --grpc --json
    servekit predict imagenet photos/ --batch 8 --output results.jsonl
    servekit predict half_plus_two --instances '[1.0, 2.0]'
    """
    from servekit.client import Client
    from servekit.client.address import is_grpc
    from servekit.client.payload import output_filter, read_image

    if label is not None and version is not None:
        raise click.UsageError("give --label or --version, not both")
    if bool(files) + bool(instances) + bool(inputs) != 1:
        raise click.UsageError("give images, or --instances, or --input")
    url = address(url=url, host=host, port=port, grpc=bool(grpc))
    if grpc is not None and grpc != is_grpc(url):
        raise click.UsageError(f"--{'grpc' if grpc else 'rest'} does not fit --url {url}")
    folder = _folder(files)
    if folder is not None:
        if output is None:
            raise click.UsageError(f"{folder} is a folder: say with --output FILE.jsonl where its results go")
        from servekit.cli.predict_folder import FolderOptions, predict_folder

        spec = ModelSpec(model, version, label, signature)
        options = FolderOptions(
            folder, output, output_dir, wanted, batch or 8, parallel or 2, top, retry_failed, overwrite, as_json
        )
        try:
            predict_folder(url, spec, options, timeout_s)
        except StatusError as error:
            raise _explained(error, spec) from None
        return
    if batch or parallel or output_dir or retry_failed or overwrite:
        raise click.UsageError("--batch, --parallel, --output-dir, --retry-failed and --overwrite are for a folder")
    if files.count(Path("-")) > 1:
        raise click.UsageError("- is one image; it can be given once")
    images = [read_image(file) for file in files]
    spec = ModelSpec(model, version, label, signature)
    with Client(url, timeout_s=timeout_s) as client:
        try:
            metadata = client.metadata(spec)
            definition = metadata.signature(signature)
            payload = _payload(model, definition, images, instances, inputs)
            names = output_filter(model, definition, wanted)
            start = time.monotonic()
            prediction = client.predict(spec, payload, output_filter=names)
        except StatusError as error:
            raise _explained(error, spec) from None
    answer = _Answer(
        spec=spec,
        version=prediction.version or metadata.version,
        protocol="gRPC" if is_grpc(url) else "REST",
        milliseconds=round((time.monotonic() - start) * 1000, 1),
        files=[str(file) for file in files],
    )
    _show(answer, prediction, top, as_json=as_json, output=output)


class _Answer:
    """Who answered, and what about."""

    def __init__(self, *, spec: ModelSpec, version: int, protocol: str, milliseconds: float, files: list[str]) -> None:
        self.spec, self.version, self.protocol = spec, version, protocol
        self.milliseconds, self.files = milliseconds, files

    def document(self) -> dict[str, Any]:
        return {
            "model": self.spec.name,
            "version": self.version,
            "label": self.spec.version_label,
            "signature": self.spec.signature_name or DEFAULT_SIGNATURE,
            "protocol": self.protocol,
            "milliseconds": self.milliseconds,
        }

    def title(self) -> str:
        label = f" ({self.spec.version_label})" if self.spec.version_label is not None else ""
        return f"{self.spec.name} version {self.version}{label}, {self.protocol}, {self.milliseconds:.0f} ms"


def _folder(files: tuple[Path, ...]) -> Path | None:
    folders = [file for file in files if file.is_dir()]
    if folders and len(files) > 1:
        raise click.UsageError("give one folder, or images")
    return folders[0] if folders else None


def _payload(
    model: str, signature: Signature | None, images: list[bytes], instances: str | None, inputs: tuple[str, ...]
) -> dict[str, Any]:
    from servekit.client import payload

    if instances is not None:
        return payload.instances(instances, signature)
    if inputs:
        return payload.named_inputs(inputs)
    # An unknown signature goes out as it is: the server says so in its own words.
    return {payload.image_input(model, signature).name if signature else "image_bytes": images}


def _explained(error: StatusError, spec: ModelSpec) -> StatusError:
    """The server's text with what was asked for, which its own often leaves out."""
    if error.hint or error.code not in (Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION):
        return error
    asked = spec.name + (f" version {spec.version}" if spec.version is not None else "")
    message = f"{asked} is not served: {error.message}" if error.code is Code.NOT_FOUND else error.message
    return StatusError(error.code, message, hint="models, versions and labels: servekit status")


def _show(answer: _Answer, prediction: Prediction, top: int, *, as_json: bool, output: Path | None) -> None:
    from servekit.client.ranking import flags, rankings

    valid = flags(prediction.outputs, len(answer.files)) or [True] * len(answer.files)
    if output is not None:
        _write_bytes(prediction, output, valid)
    ranked = rankings(prediction.outputs, top) if answer.files else None
    if as_json:
        document = answer.document()
        if ranked is None:
            document["outputs"] = {name: _plain(array.tolist()) for name, array in prediction.outputs.items()}
        else:
            document["predictions"] = [
                {
                    "file": file,
                    "valid": ranking.valid,
                    "classes": [
                        {"label": one.label, "probability": one.probability, "class_id": one.class_id}
                        for one in ranking.classes
                    ],
                }
                for file, ranking in zip(answer.files, ranked, strict=True)
            ]
        print_json(document)
    elif ranked is None:
        _print_outputs(answer, prediction)
    else:
        _print_rankings(answer, ranked)
    unread = [file for file, can_read in zip(answer.files, valid, strict=True) if not can_read]
    if unread:
        raise ServekitError(f"{', '.join(unread)}: the model cannot read this image")


def _print_rankings(answer: _Answer, ranked: list[Ranking]) -> None:
    from rich.console import Console
    from rich.table import Table

    several = len(ranked) > 1
    click.echo(answer.title())
    table = Table()
    for column in (["image"] if several else []) + ["label"]:
        table.add_column(column)
    table.add_column("probability", justify="right")
    table.add_column("class id", justify="right")
    for file, ranking in zip(answer.files, ranked, strict=True):
        for place, one in enumerate(ranking.classes if ranking.valid else ()):
            id_text = "" if one.class_id is None else str(one.class_id)
            first = [Path(file).name if place == 0 else ""] if several else []
            last = place == len(ranking.classes) - 1
            table.add_row(*first, one.label, f"{one.probability:.4f}", id_text, end_section=last)
    if table.row_count:
        Console().print(table)


def _print_outputs(answer: _Answer, prediction: Prediction) -> None:
    click.echo(answer.title())
    for name, array in prediction.outputs.items():
        shape = "x".join(map(str, array.shape)) or "scalar"
        kind = "string" if array.dtype == object else array.dtype.name
        click.echo(f"{name}  {kind} [{shape}]  {_short(_plain(array.tolist()))}")


def _write_bytes(prediction: Prediction, target: Path, valid: list[bool]) -> None:
    """One item of the answer's only `*_bytes` output to a file; into a folder, any number of them.

    An image that the model could not read, by its flag in `valid`, has no file.
    """
    outputs = {name: array for name, array in prediction.outputs.items() if name.endswith("_bytes")}
    if len(outputs) != 1:
        raise ServekitError(f"--output: the answer has {len(outputs)} outputs named *_bytes, one is needed")
    name, array = next(iter(outputs.items()))
    items = [bytes(item) for item in array.ravel().tolist()]
    if target.is_dir():
        from servekit.client.payload import image_format

        targets = [target / f"{name}-{number}.{image_format(item) or 'bin'}" for number, item in enumerate(items, 1)]
    elif len(items) == 1:
        targets = [target]
    else:
        raise ServekitError(f"--output {target}: {len(items)} results need a folder that exists")
    written = valid if len(valid) == len(items) else [True] * len(items)  # without images there are no flags
    try:
        for path, item, is_valid in zip(targets, items, written, strict=True):
            if is_valid:
                path.write_bytes(item)
    except OSError as error:
        raise ServekitError(f"--output {target}: {error.strerror}") from None


def _plain(value: Any) -> Any:
    """For JSON: bytes as text where they are text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _short(value: Any, limit: int = 400) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit} characters more; --json shows all)"
