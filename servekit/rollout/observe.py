"""One model as a running server and the disk show it now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from servekit.client import Client, ModelSpec
from servekit.config.folders import published_versions
from servekit.errors import Code, StatusError, Unreachable
from servekit.rollout.proof import Seen

_UNKNOWN = {Code.NOT_FOUND, Code.INVALID_ARGUMENT}
POLL_S = 0.1


def observe(client: Client, name: str, folder: Path, labels: Iterable[str]) -> Seen:
    """Asks for the model's versions, and for the version of each of `labels`. Raises StatusError, Unreachable.

    Over a gRPC client: TF Serving counts REST status calls as requests, which waters down error rates.
    """
    published = frozenset(published_versions(folder) or ())
    try:
        statuses = client.status(name).versions
    except Unreachable:
        raise
    except StatusError as error:
        if error.code not in _UNKNOWN:
            raise
        return Seen(published)
    states = {status.version: status.state for status in statuses}
    failed = {status.version: status.message for status in statuses if status.code is not Code.OK}
    resolved = {label: version for label in labels if (version := _version(client, name, label)) is not None}
    return Seen(published, states, failed, resolved)


def observe_at_rest(
    client: Client, name: str, folder: Path, labels: Iterable[str], patience_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Seen:  # fmt: skip
    """As soon as no version is on its way up or down, or what is seen when `patience_s` is over. `meanwhile` is called
    all the time, and may raise."""
    wanted, deadline = list(labels), time.monotonic() + patience_s
    while True:
        seen = observe(client, name, folder, wanted)
        if not seen.moving or time.monotonic() >= deadline:
            return seen
        meanwhile()
        time.sleep(POLL_S)


def _version(client: Client, name: str, label: str) -> int | None:
    try:
        return client.metadata(ModelSpec(name, version_label=label)).version
    except Unreachable:
        raise
    except StatusError as error:
        # A version without variables/ is AVAILABLE and its label works, though nothing can be predicted with it.
        if error.code in _UNKNOWN:
            return None
        raise
