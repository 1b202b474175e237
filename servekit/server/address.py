"""Where the server listens."""

from __future__ import annotations

import os


def bind_address() -> str:
    """Both edges' address: all interfaces, as TF Serving's, unless SERVEKIT_BIND_ADDRESS says otherwise."""
    return os.environ.get("SERVEKIT_BIND_ADDRESS") or "0.0.0.0"  # noqa: S104
