"""The gateway's rendered files: where they are, and the route file written and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from servekit.config.rendered_files import CONTAINER
from servekit.config.serving import Serving
from servekit.config.write import compare, write
from servekit.errors import ServekitError
from servekit.gateway.routes import route_file, splits_of
from servekit.gateway.splits import Split, desired_splits, generation, not_raised
from servekit.paths import Bundle

FOLDER = "gateway"
ROUTES = f"{FOLDER}/routes.yaml"
BOOTSTRAP = f"{FOLDER}/envoy.yaml"


def write_routes(bundle: Bundle, serving: Serving, splits: Mapping[str, Split], *, container: bool) -> str:
    """Renames a new route file into place, where a running Envoy takes it up within a second.

    Returns its generation. Raises ServekitError.
    """
    write(compare({_routes(container): routes_text(splits, serving)}, bundle.rendered))
    return generation(splits, serving)


def read_splits(bundle: Bundle, *, container: bool) -> dict[str, Split]:
    """What was written last; empty where nothing was. Raises ServekitError for a file that is no route file."""
    return _read(bundle.rendered / _routes(container)) or {}


def rendered_routes(serving: Serving, rendered: Path) -> dict[str, str]:
    """Path below `rendered` to text, for `servekit render`, which proves nothing of the model server.

    The first file says all that serving.yaml wants. Over one that is there it lowers weights and takes models away;
    what needs a label that may not answer yet is the controller's: `servekit apply`.
    """
    desired, texts = desired_splits(serving), {}
    # A container's gateway is always there; without `enabled` it labels nothing.
    for path in (_routes(False), _routes(True)) if serving.gateway.enabled else (_routes(True),):
        written = _read(rendered / path)
        texts[path] = routes_text(desired if written is None else not_raised(desired, written), serving)
    return texts


def routes_text(splits: Mapping[str, Split], serving: Serving) -> str:
    """The route file."""
    about = "# Written by servekit from config/serving.yaml; Envoy takes it up when it is renamed into place.\n"
    return about + yaml.safe_dump(route_file(splits, serving), sort_keys=False, allow_unicode=True, width=120)


def _routes(container: bool) -> str:
    return f"{CONTAINER}/{ROUTES}" if container else ROUTES


def _read(path: Path) -> dict[str, Split] | None:
    try:
        return splits_of(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ServekitError(
            f"{path}: no route file of the gateway ({type(error).__name__})", hint=f"rm {path}, then servekit apply"
        ) from None
