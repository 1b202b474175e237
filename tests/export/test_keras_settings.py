from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from servekit.errors import ExportError
from servekit.export import keras_settings


def test_keras_with_another_backend_that_is_in_use_already_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other backends are packages that servekit does not install: what is asked of Keras is answered for it."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=SimpleNamespace(backend=lambda: "jax")))
    with pytest.raises(
        ExportError, match="has imported Keras with the backend jax; an export needs tensorflow"
    ) as caught:
        keras_settings.use_tensorflow()
    assert caught.value.hint == "KERAS_BACKEND=tensorflow"
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_settings.use_tensorflow()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
