"""What every part stands on: a folder for models and servers, one load generator, one engine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.performance.section import Skipped
from servekit.bench.generator import Generator
from servekit.bench.payload import requests
from servekit.bench.processor import cpu_seconds, machine_cpu_seconds
from servekit.bench.report import BUSY
from servekit.bench.traffic import Job, Request, Shape
from servekit.config.load import typed
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.engine.choose import Engine
from servekit.model_spec import ModelSpec
from servekit.paths import Bundle
from servekit.tune.figures import Figures, figures_of
from servekit.tune.own_server import OwnServer, start

PHOTO = "chelsea.jpg"
SIGNATURES = {"imagenet": "", "resnet": "serving_preprocess"}
"""That take the bytes of an image."""

Requests = Mapping[str, tuple[Request, ...]]
"""By protocol, REST and gRPC."""


@dataclass(slots=True)
class Stand:
    """`home` has the models, `work` is emptied in the end. Rounds: how many, and how long each is."""

    bundle: Bundle
    home: Path
    work: Path
    engine: Engine
    generator: Generator
    rounds: int
    round_s: float
    _number: int = field(default=0)

    @property
    def photo(self) -> bytes:
        return (self.bundle.samples / PHOTO).read_bytes()

    def version(self, model: str) -> Path:
        """A folder with a version of `model`: the first in models/, or for resnet one with random weights, whose speed
        is the same. Raises Skipped."""
        found = sorted(path.parent for path in (self.bundle.models / model).glob("*/saved_model.pb"))
        if found:
            return found[0]
        if model == "resnet":
            return self._random_resnet()
        raise Skipped(f"models/{model} is not there: ./scripts/servekit export {model} --version 1")

    @contextlib.contextmanager
    def serving(self, models: Mapping[str, Path], settings: str = "") -> Iterator[OwnServer]:
        """A server with `models` (version folders by name), one version each. `settings`: sections of serving.yaml."""
        self._number += 1
        base = self.work / f"models-{self._number}"
        for name, version in models.items():
            (base / name).mkdir(parents=True)
            (base / name / "1").symlink_to(version.resolve())
        server = start(self._typed(base, list(models), settings), self.engine, self.bundle, self._folder())
        try:
            yield server
        finally:
            server.end()

    def measure(
        self, server: OwnServer, protocol: str, asked: Sequence[Request], clients: int, longer: float = 1.0
    ) -> Figures:
        return self.measure_at(server.url(protocol), asked, clients, server.pid, longer)

    def measure_at(
        self, url: str, asked: Sequence[Request], clients: int, pid: int | None, longer: float = 1.0
    ) -> Figures:
        """One round of load, `longer` times as long as usual, after a warm-up of a quarter of its length."""
        seconds = self.round_s * longer
        job = Job(url, tuple(asked), Shape(clients=clients), seconds, seconds / 4, 60.0)
        before, all_before, began = cpu_seconds(pid), machine_cpu_seconds(), time.monotonic()
        sample = self.generator.run(job)
        after, all_after, lasted = cpu_seconds(pid), machine_cpu_seconds(), time.monotonic() - began
        used = None if before is None or after is None else after - before
        by_all = None if all_before is None or all_after is None else all_after - all_before
        return figures_of(sample, used, by_all, lasted, 1, BUSY)

    def requests_for(self, model: str, inputs: Mapping[str, NDArray[Any]], signature: str = "") -> Requests:
        return requests(ModelSpec(model, signature_name=signature), [dict(inputs)])

    def photo_requests(self, model: str, signature: str | None = None) -> Requests:
        name = SIGNATURES[model] if signature is None else signature
        return self.requests_for(model, {"image_bytes": texts(self.photo)}, name)

    def _typed(self, base: Path, names: Sequence[str], settings: str) -> Serving:
        entries = "".join(f'  {name}: {{base_path: "{base / name}"}}\n' for name in names)
        return typed(parse(f"models:\n{entries}gateway: {{enabled: false}}\n{settings}", "serving.yaml"))

    def _folder(self) -> Path:
        return self.work / f"server-{self._number}"

    def _random_resnet(self) -> Path:
        version = self.home / "models" / "resnet" / "1"
        if not version.is_dir():
            for name in ("export", "config"):
                (self.home / name).parent.mkdir(parents=True, exist_ok=True)
                if not (self.home / name).exists():
                    (self.home / name).symlink_to(self.bundle.root / name)
            source = self.home / "resnet50v2.weights.h5"
            program = (
                "import sys, keras; keras.utils.set_random_seed(1); "
                "keras.applications.ResNet50V2(weights=None, classifier_activation=None).save_weights(sys.argv[1])"
            )
            environment = {**os.environ, "SERVEKIT_HOME": str(self.home), "TF_CPP_MIN_LOG_LEVEL": "3"}
            export = ["-m", "servekit", "export", "resnet", "--version", "1", "--source", str(source)]
            for arguments in (["-c", program, str(source)], export):
                done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True,
                                      cwd=self.bundle.root, check=False)  # fmt: skip
                if done.returncode:
                    raise Skipped(f"resnet could not be exported: {done.stderr.strip().splitlines()[-1:]}")
            source.unlink()
        return version


def texts(*items: bytes) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
