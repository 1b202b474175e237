"""Several graphs in one SavedModel, over the same variables; the server's tags say which of them answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servekit.client import Client, ModelSpec
from servekit.errors import StatusError
from servekit.export.saved_model import read_meta_graphs
from tests.conftest import Serve
from tests.export.saved_networks import SIZE, save_tf1, tf1_answers

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1: tags `serve` with the signature predict_images, `serve,gpu` with first_score, the same variables."""
    base = tmp_path_factory.mktemp("tagged") / "tagged"
    base.mkdir()
    save_tf1(base / "1")
    return base


def test_the_variables_of_all_meta_graphs_are_written_once(base: Path) -> None:
    assert [meta_graph.tags for meta_graph in read_meta_graphs(base / "1")] == [("serve",), ("serve", "gpu")]
    size = sum(path.stat().st_size for path in (base / "1" / "variables").iterdir())
    assert size < 1.1 * SIZE * SIZE * 3 * 6 * 4


@pytest.mark.parametrize(
    ("tags", "signature", "output", "other"),
    [
        ([], "predict_images", "scores", "first_score"),
        (["--saved_model_tags=gpu,serve"], "first_score", "score", "predict_images"),
    ],
    ids=["default", "gpu,serve"],
)
def test_the_graph_with_the_servers_tags_answers(
    serve: Serve, base: Path, tags: list[str], signature: str, output: str, other: str
) -> None:
    server = serve(f"--model_base_path={base}", "--model_name=tagged", *tags)
    expected = tf1_answers(IMAGES)
    for url in (server.rest, f"grpc://{server.grpc}"):
        with Client(url) as client:
            answer = client.predict(ModelSpec("tagged", signature_name=signature), {"images": IMAGES}).outputs
            np.testing.assert_allclose(answer[output], expected if output == "scores" else expected[:, 0], atol=1e-4)
            with pytest.raises(StatusError, match=f'signature "{other}"|{other}'):
                client.predict(ModelSpec("tagged", signature_name=other), {"images": IMAGES})


def test_tags_that_no_graph_has_are_the_versions_error(serve: Serve, base: Path) -> None:
    server = serve(
        f"--model_base_path={base}",
        "--model_name=tagged",
        "--saved_model_tags=serve,tpu",
        "--max_num_load_retries=0",
        ready=False,
    )
    server.wait_for_log("Could not find meta graph def matching supplied tags: { tpu serve }")
