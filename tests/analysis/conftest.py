"""A server with three versions of tests/models/kinds, and a bundle whose serving.yaml names them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from servekit.analysis.agreement import ask
from servekit.analysis.samples import Sample, of_path
from servekit.analysis.verdict import Agreed, NoData
from servekit.client import Client
from servekit.config.canary import Agreement
from servekit.paths import Bundle
from tests.conftest import RunningServer, Serve
from tests.monitoring.conftest import prometheus_tools as prometheus_tools

CONFIG = """
model_config_list {
  config {
    name: "kinds" base_path: "MODELS/kinds" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 versions: 3 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  }
  config {
    name: "worse" base_path: "MODELS/kinds" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 3 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 3 }
  }
  config {
    name: "same" base_path: "MODELS/kinds" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 1 }
  }
  config {
    name: "half" base_path: "MODELS/half_plus_two" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  }
}
"""
"""`kinds` has a canary that answers nearly as stable does, `worse` one that does not."""

LABELS = "--allow_version_labels_for_unavailable_models=true"


def start(serve: Serve, models: Path) -> RunningServer:
    files = {"models.config": CONFIG.replace("MODELS", str(models))}
    return serve("--model_config_file={work}/models.config", LABELS, files=files)


@pytest.fixture(scope="module")
def server(serve: Serve, models: Path) -> RunningServer:
    return start(serve, models)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(f"grpc://{server.grpc}") as client:
        yield client


@pytest.fixture
def agreed(client: Client) -> Callable[..., Agreed | NoData]:
    """Asks both labels of a model what a folder or file holds."""

    def asked(model: str, samples: Path | list[Sample], limit_s: float = 30.0, **settings: Any) -> Agreed | NoData:
        found = samples if isinstance(samples, list) else of_path(samples)
        return ask(client, model, found, Agreement(**settings), limit_s=limit_s)

    return asked


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Bundle:
    """A bundle with these models; a test writes its serving.yaml."""
    (tmp_path / "config").mkdir()
    shutil.copytree(models / "kinds", tmp_path / "models" / "kinds")
    shutil.copytree(models / "kinds", tmp_path / "models" / "worse")
    shutil.copytree(models / "half_plus_two", tmp_path / "models" / "half")
    return Bundle(tmp_path)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (16, 12)) -> bytes:
    """A PNG of one colour, with some noise of its own."""
    noise = np.random.default_rng(sum(colour)).integers(-20, 20, (size[1], size[0], 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


RED, GREEN, BLUE = (220, 30, 20), (20, 200, 40), (10, 40, 230)


def folder_of_pictures(folder: Path) -> Path:
    folder.mkdir()
    for name, colour in {"apple": RED, "leaf": GREEN, "sky": BLUE}.items():
        (folder / f"{name}.png").write_bytes(picture(colour))
    return folder
