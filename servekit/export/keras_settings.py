"""Keras as an export needs it, whatever the user's environment and ~/.keras/keras.json say."""

from __future__ import annotations

import os
import sys

from servekit.errors import ExportError

BACKEND = "tensorflow"


def use_tensorflow() -> None:
    """To be called before Keras is imported: a model of another backend cannot become a TensorFlow graph.

    Raises ExportError where this process has imported Keras with another one already.
    """
    os.environ["KERAS_BACKEND"] = BACKEND
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != BACKEND:
        raise ExportError(
            f"this process has imported Keras with the backend {keras.config.backend()}; an export needs {BACKEND}",
            hint=f"KERAS_BACKEND={BACKEND}",
        )


def standard_layout() -> None:
    """Channels last and float32 for layers that are built without saying so, as Keras has it without a keras.json."""
    import keras

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
