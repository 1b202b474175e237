"""Check `tensorflow`: models that were written by a newer TensorFlow than the server's."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from servekit.doctor.docker import numbers
from servekit.doctor.finding import Finding, error, listed, warning
from servekit.doctor.model_folders import ModelFacts
from servekit.doctor.programs import ask
from servekit.engine.choose import NATIVE_PROGRAM

# Kinds of nodes by the release that brought them: the op lists of tensorflow-cpu 2.19.1, 2.20.0 and 2.21.0 compared.
OP_SINCE: dict[str, tuple[int, int]] = {
    "DecodeJxl": (2, 21),
    "DecodeWebP": (2, 20),
    "TPUDummyInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithAdagradAndCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithAdagradMomentumAndCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithAdamAndCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithFtrlAndCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcGradWithSgdAndCsrInput": (2, 20),
    "XlaSparseDenseMatmulCustomCombinerOnTcWithCsrInput": (2, 20),
}

_DECODES_WEBP = (2, 20)
"""Before it DecodeImage knows JPEG, PNG, GIF and BMP."""


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """`release` of the server's TensorFlow; `where` it was read."""

    release: tuple[int, ...]
    where: str


def of_image(image: str) -> ServerVersion | None:
    """TensorFlow Serving's image tags are TensorFlow's releases; None for `latest`, a digest, or another image."""
    found = re.search(r"tensorflow/serving:(\d+\.\d+(?:\.\d+)?)(?:-\w+)*(?:@|$)", image)
    return ServerVersion(numbers(found[1]), f"image {image}") if found else None


def of_native() -> ServerVersion | None:
    answer = ask([NATIVE_PROGRAM, "--version"])
    found = re.search(r"TensorFlow Library: (\d+\.\d+(?:\.\d+)?)", answer.out) if answer.ok else None
    return ServerVersion(numbers(found[1]), NATIVE_PROGRAM) if found else None


def of_embedded() -> ServerVersion | None:
    for wheel in ("tensorflow-cpu", "tensorflow"):
        try:
            return ServerVersion(numbers(importlib.metadata.version(wheel)), f"{wheel} of the embedded server")
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def judge(models: Iterable[ModelFacts], server: ServerVersion | None) -> Iterator[Finding]:
    if server is None:
        return
    release = server.release
    for model in models:
        for version in model.versions:
            if version.graph is None:
                continue
            unknown = sorted(op for op in version.graph.ops if OP_SINCE.get(op, (0,)) > release[:2])
            written_by = numbers(version.graph.tensorflow_version)
            newer = f"use an image of TensorFlow {_text(written_by[:2])} or newer, or export with {_text(release[:2])}"
            if unknown:
                yield error(
                    "tensorflow.unknown-op",
                    version.place,
                    f"uses {listed(unknown)}, which TensorFlow {_text(release)} ({server.where}) does not have: the "
                    "version will not load (Op type not registered)",
                    newer,
                )
            elif written_by[:2] > release[:2]:
                yield warning(
                    "tensorflow.newer-model",
                    version.place,
                    f"was written by TensorFlow {version.graph.tensorflow_version}, the server has {_text(release)} "
                    f"({server.where}): it loads only if it uses nothing new",
                    newer,
                )
            if "DecodeImage" in version.graph.ops and release[:2] < _DECODES_WEBP:
                yield warning(
                    "tensorflow.no-webp",
                    version.place,
                    f"decodes images in its graph, and TensorFlow {_text(release)} cannot decode WebP",
                    "use an image of 2.20 or newer, or send JPEG or PNG",
                )


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


def looked_at(models: Iterable[ModelFacts], server: ServerVersion | None) -> str:
    if server is None:
        return ""
    written = sorted({one.graph.tensorflow_version for model in models for one in model.versions if one.graph})
    by = f", models were written by {listed(written)}" if written else ""
    return f"server has TensorFlow {_text(server.release)} ({server.where}){by}"
