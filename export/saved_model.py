"""Your own Keras 3 model or SavedModel, as it is: its tensors in, its tensors out; weights frozen, norms folded.

    servekit export saved_model --source cats.keras --name cats --version 1
    servekit export saved_model --source exported/1 --name scores --version 1

A model that should take image files needs a recipe of its own, ten lines that declare preprocessing and labels:
docs/exporting.md.
"""

from __future__ import annotations

from servekit.export.own_model import own_model

RECIPE, build = own_model(title="A model of your own", licence="NOASSERTION", url="")
