"""`servekit predict MODEL FOLDER --output results.jsonl`: every image of a folder, resumable."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.bulk.asking import Asker, batch_size
from servekit.bulk.images import batches, find_images
from servekit.bulk.lines import Line, Question, printable
from servekit.bulk.results import Plan, Results, plan
from servekit.bulk.run import Run
from servekit.cli.output import print_json, say, say_hint
from servekit.client import Client
from servekit.client.address import is_grpc
from servekit.client.payload import PayloadError, image_input, output_filter
from servekit.errors import Code, ExitCode, ServekitError, StatusError
from servekit.model_spec import ModelSpec

SHOWN_FAILURES = 10
_LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """`overwrite` starts the results file again; `retry_failed` asks again about images whose line has an error."""

    folder: Path
    output: Path
    output_dir: Path | None
    output_filter: tuple[str, ...]
    batch: int
    parallel: int
    top: int
    retry_failed: bool
    overwrite: bool
    as_json: bool


@dataclass(slots=True)
class _Count:
    """What this run did, and what earlier ones left."""

    images: int
    skipped: int
    answered: int
    failed: int
    failures: list[tuple[str, str]]
    asked: int = 0

    @classmethod
    def of(cls, images: int, planned: Plan) -> _Count:
        errors = planned.errors
        shown = list(itertools.islice(errors.items(), SHOWN_FAILURES))
        return cls(images, planned.answered + len(errors), planned.answered, len(errors), shown)

    def add(self, lines: list[Line]) -> None:
        for line in lines:
            self.asked += 1
            if line["error"] is None:
                self.answered += 1
                continue
            self.failed += 1
            if len(self.failures) < SHOWN_FAILURES:
                self.failures.append((line["file"], line["error"]))


def predict_folder(url: str, spec: ModelSpec, options: FolderOptions, timeout_s: float) -> None:
    """Asks, shows progress, says what happened. Raises ServekitError; exits with 1 after failures, 130 on Ctrl-C."""
    leave_out = [options.output_dir] if options.output_dir else []
    found = find_images(options.folder, leave_out=leave_out)
    if not found:
        raise PayloadError(f"{options.folder}: no images", hint="JPEG, PNG, GIF, BMP and WebP are found by their bytes")
    with Client(url, timeout_s=timeout_s) as client:
        metadata = client.metadata(spec)
        signature = metadata.signature(spec.signature_name)
        if signature is None:
            raise StatusError(
                Code.NOT_FOUND,
                f"{spec.name} version {metadata.version} has no signature {spec.signature_name or 'serving_default'}; "
                f"it has {', '.join(sorted(metadata.signatures))}",
            )
        tensor = image_input(spec.name, signature)
        names = output_filter(spec.name, signature, options.output_filter)
        count = batch_size(spec.name, tensor, options.batch)
        question = Question(spec, metadata.version)
        results = Results(options.output, overwrite=options.overwrite)
        try:
            planned = plan(found, results.before(question), retry_failed=options.retry_failed)
            results.remove(planned.superseded)
            counted = _Count.of(len(found), planned)
            stop = threading.Event()
            asker = Asker(
                client, question, tensor.name, names, options.folder, options.output_dir, options.top, stop, say
            )
            run = Run(batches(planned.todo, found, count), asker, results, options.parallel, stop, say)
            _run(run, question, counted, options, protocol="gRPC" if is_grpc(url) else "REST")
        finally:
            results.close()


def _run(run: Run, question: Question, counted: _Count, options: FolderOptions, *, protocol: str) -> None:
    if counted.skipped:
        say(f"{options.output}: {counted.skipped} of {counted.images} images are done, {_left(counted)} to go")
    start, error = time.monotonic(), None
    with _progress(counted) as show:
        try:
            for lines in run.lines():
                counted.add(lines)
                show()
        except ServekitError as stopped:
            error = stopped
    seconds = time.monotonic() - start
    state = "stopped" if error else "interrupted" if run.interrupted else "finished"
    _say_end(counted, options, seconds, state)
    if options.as_json:
        print_json(_summary(question, counted, options, protocol=protocol, seconds=seconds, state=state))
    if error is not None:
        hint = f"all results so far are in {options.output}, the same command goes on from there"
        error.hint = f"{error.hint}; {hint}" if error.hint else hint
        raise error
    if run.interrupted and _left(counted):
        say_hint(f"all results so far are in {options.output}, the same command goes on from there")
        sys.exit(ExitCode.INTERRUPTED)
    if counted.failed:
        sys.exit(ExitCode.NO)


def _left(counted: _Count) -> int:
    return counted.images - counted.answered - counted.failed


def _say_end(counted: _Count, options: FolderOptions, seconds: float, state: str) -> None:
    rate = f", {counted.asked / seconds:.1f} images/s" if counted.asked and seconds > 0 else ""
    left = f", {_left(counted)} not asked" if _left(counted) else ""
    what = f"{counted.answered} answered, {counted.failed} failed{left}"
    say(f"{state}: {what} ({seconds:.1f} s{rate}), {options.output}")
    for name, text in counted.failures:
        say(f"failed: {printable(name)}: {text}")
    if counted.failed > len(counted.failures):
        say(f"... and {counted.failed - len(counted.failures)} more: lines of {options.output} whose error is not null")
    if counted.failed and state == "finished":
        say_hint("--retry-failed asks again about those that failed")


def _summary(
    question: Question, counted: _Count, options: FolderOptions, *, protocol: str, seconds: float, state: str
) -> dict[str, Any]:
    return {
        "state": state,
        **question.members(),
        "version": question.version,
        "protocol": protocol,
        "folder": printable(str(options.folder)),
        "output": printable(str(options.output)),
        "images": counted.images,
        "answered": counted.answered,
        "failed": counted.failed,
        "not_asked": _left(counted),
        "skipped": counted.skipped,
        "asked": counted.asked,
        "seconds": round(seconds, 3),
        "failures": [{"file": printable(name), "error": text} for name, text in counted.failures],
    }


@contextmanager
def _progress(counted: _Count) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        with _bar(counted) as show:
            yield show
        return
    start = last = time.monotonic()

    def line() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S and _left(counted):
            last = now
            rate = counted.asked / (now - start)
            done = counted.images - _left(counted)
            left_s = _left(counted) / rate
            say(f"{done} of {counted.images} images, {counted.failed} failed, {rate:.1f}/s, {left_s:.0f} s left")

    yield line


@contextmanager
def _bar(counted: _Count) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        done = counted.images - _left(counted)
        task = progress.add_task("", total=counted.images, completed=done, rate=0.0, failed=counted.failed)

        def show() -> None:
            progress.update(
                task,
                completed=counted.images - _left(counted),
                rate=counted.asked / max(1e-3, time.monotonic() - start),
                failed=counted.failed,
            )

        yield show
