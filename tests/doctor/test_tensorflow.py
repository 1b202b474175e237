"""Models against the server's TensorFlow: real SavedModels, and one with an op that came later."""

from __future__ import annotations

import pytest

from servekit.config.load import load
from servekit.doctor import model_folders, tensorflow
from servekit.doctor.tensorflow import OP_SINCE, ServerVersion
from servekit.export.saved_model import parse_saved_model
from tests.doctor.homes import Home


def look(home: Home, *release: int) -> list[str]:
    models = model_folders.gather(load(home.bundle.serving_yaml), home.bundle.models)
    return [found.code for found in tensorflow.judge(models, ServerVersion(release, "here") if release else None)]


def add_op(home: Home, op: str) -> None:
    path = home.model / "2" / "saved_model.pb"
    proto = parse_saved_model(path.parent)
    function = proto.meta_graphs[0].graph_def.library.function.add()
    function.node_def.add(name="decode", op=op)
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("release", [(2, 21, 0), (2, 22), ()])
def test_a_server_that_is_as_new_as_the_models_is_no_finding(home: Home, release: tuple[int, ...]) -> None:
    assert look(home, *release) == []


def test_an_older_server_is_a_warning_for_each_version(home: Home) -> None:
    assert look(home, 2, 19, 1) == ["tensorflow.newer-model"] * 2


def test_an_op_that_the_server_lacks_is_an_error_also_inside_a_function(home: Home) -> None:
    add_op(home, "DecodeWebP")
    assert look(home, 2, 19, 1) == ["tensorflow.newer-model", "tensorflow.unknown-op"]
    assert look(home, 2, 20, 0) == ["tensorflow.newer-model"] * 2
    assert look(home, 2, 21, 0) == []


def test_images_decoded_in_the_graph_cannot_be_webp_before_2_20(home: Home) -> None:
    add_op(home, "DecodeImage")
    assert look(home, 2, 19, 1).count("tensorflow.no-webp") == 1
    assert "tensorflow.no-webp" not in look(home, 2, 20, 0)


@pytest.mark.slow
def test_the_table_of_ops_fits_the_tensorflow_that_is_installed() -> None:
    """It has all of them when it is 2.21 or newer; one older lacks those that came after it."""
    import subprocess
    import sys

    program = (
        "import tensorflow as tf; from tensorflow.python.framework import op_def_registry as r\n"
        f"print(tf.__version__, *[op for op in {sorted(OP_SINCE)!r} if r.get(op) is not None])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    version, *known = out.split()
    release = tuple(map(int, version.split(".")[:2]))
    assert set(known) == {op for op, since in OP_SINCE.items() if since <= release}


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("tensorflow/serving:2.20.0", (2, 20, 0)),
        ("tensorflow/serving:2.19.1-gpu", (2, 19, 1)),
        ("registry.local:5000/tensorflow/serving:2.21.0@sha256:0123", (2, 21, 0)),
        ("tensorflow/serving:latest", None),
        ("tensorflow/serving", None),
        ("example.org/tensorflow/serving@sha256:0123", None),
        ("other:2.20.0", None),
    ],
)
def test_the_release_is_read_from_the_image_s_tag(image: str, release: tuple[int, ...] | None) -> None:
    found = tensorflow.of_image(image)
    assert (found.release if found else None) == release


def test_the_embedded_server_s_release_is_read_without_importing_it() -> None:
    found = tensorflow.of_embedded()
    assert found is not None
    assert found.release >= (2, 21)
