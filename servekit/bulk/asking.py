"""Asks a model about one batch of a folder's images; whatever happens to an image becomes its line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from servekit.atomic import write_atomically
from servekit.bulk.images import UnreadableImage, read_image
from servekit.bulk.lines import Line, Question, answered, failed
from servekit.bulk.results import NotWritten
from servekit.bulk.retry import MAX_UNANSWERED, PAUSES_S, Verdict, verdict
from servekit.client import Client
from servekit.client.answers import TensorSpec
from servekit.client.payload import PayloadError, image_format
from servekit.errors import StatusError, Unreachable


class Stopped(Exception):
    """The run was ended while this batch waited for another attempt."""


def batch_size(model: str, spec: TensorSpec, wanted: int) -> int:
    """How many images a request holds. Raises PayloadError for an input that takes no batch of them."""
    if spec.shape is None or spec.shape == (-1,):
        return wanted
    if spec.shape == (1,):
        return 1
    raise PayloadError(f"{model} takes {spec.name} of shape {list(spec.shape)}; a batch of images, [-1], is expected")


@dataclass(slots=True)
class Asker:
    """Called by several threads at once. `stop` ends the pauses between attempts, `notice` is told of the first.

    `output_filter` names the outputs to ask for; () are all.
    """

    client: Client
    question: Question
    input_name: str
    output_filter: Sequence[str]
    folder: Path
    output_dir: Path | None
    top: int
    stop: threading.Event
    notice: Callable[[str], None]
    _unanswered: int = field(default=0, init=False)
    _is_waiting: bool = field(default=False, init=False)

    def __call__(self, names: Sequence[str]) -> list[Line]:
        """A line for each image, in their order. Raises StatusError to end the run, NotWritten, and Stopped."""
        lines: dict[str, Line] = {}
        images: dict[str, bytes] = {}
        for name in names:
            try:
                images[name] = read_image(self.folder / name)
            except UnreadableImage as error:
                size_bytes = _size_of(self.folder / name)
                lines[name] = failed(self.question, name, size_bytes, str(error))
        if images:
            lines.update((line["file"], line) for line in self._ask(images))
        return [lines[name] for name in names]

    def _ask(self, images: Mapping[str, bytes]) -> list[Line]:
        for attempt in range(len(PAUSES_S) + 1):
            if self.stop.is_set():
                raise Stopped
            start = time.monotonic()
            try:
                inputs = {self.input_name: list(images.values())}
                prediction = self.client.predict(self.question.pinned, inputs, output_filter=self.output_filter)
            except StatusError as error:
                what = verdict(error, attempt=attempt, images=len(images))
                if what is Verdict.RETRY:
                    if not self._is_waiting:
                        self._is_waiting = True
                        self.notice(f"{error}; asking again")
                    if self.stop.wait(PAUSES_S[attempt]):
                        raise Stopped from None
                    continue
                return self._without_answer(what, error, images, _milliseconds_since(start))
            self._unanswered, self._is_waiting = 0, False
            return self._answered(prediction.outputs, images, _milliseconds_since(start))
        raise AssertionError("the last attempt has a verdict")

    def _without_answer(
        self, what: Verdict, error: StatusError, images: Mapping[str, bytes], milliseconds: float
    ) -> list[Line]:
        if what is Verdict.SPLIT:
            return [line for name, data in images.items() for line in self._ask({name: data})]
        self._unanswered = self._unanswered + 1 if what is Verdict.UNANSWERED else 0
        if what is Verdict.STOP or self._unanswered >= MAX_UNANSWERED:
            if isinstance(error, Unreachable):
                raise error
            many = f" (the last of {MAX_UNANSWERED} requests without an answer)" if what is not Verdict.STOP else ""
            raise StatusError(error.code, f"{error.message}{many}", hint=error.hint)
        return [failed(self.question, name, len(data), str(error), milliseconds) for name, data in images.items()]

    def _answered(
        self, outputs: Mapping[str, NDArray[Any]], images: Mapping[str, bytes], milliseconds: float
    ) -> list[Line]:
        sizes = {name: len(data) for name, data in images.items()}
        lines = answered(self.question, sizes, outputs, self.top, milliseconds)
        if self.output_dir is not None:
            for line in lines:
                _to_files(line, self.output_dir)
        return lines


def _to_files(line: Line, output_dir: Path) -> None:
    """`*_bytes` outputs go from the line to files beside each other: `a/b.jpg` to `a/b.jpg.png`."""
    outputs = line.get("outputs", {})
    names = [name for name, value in outputs.items() if name.endswith("_bytes") and isinstance(value, bytes)]
    files = {}
    for name in names:
        data = outputs.pop(name)
        middle = f".{name.removesuffix('_bytes')}" if len(names) > 1 else ""
        files[name] = f"{line['file']}{middle}.{image_format(data) or 'bin'}"
        try:
            write_atomically(output_dir / files[name], data)
        except OSError as error:
            raise NotWritten(f"{output_dir / files[name]}: {error.strerror}") from None
    if files:
        line["files"] = files
        if not outputs:
            del line["outputs"]


def _size_of(path: Path) -> int:
    """As `find_images` says it."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _milliseconds_since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
