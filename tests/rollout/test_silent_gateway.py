"""When a gateway counts as silent, which the controller then waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from servekit.client import Client
from servekit.config.serving import Serving
from servekit.paths import Bundle
from servekit.rollout import controller
from servekit.rollout.controller import Controller, Settings
from servekit.rollout.proof import Seen
from tests.analysis.web import Asked, web

SERVING = Serving.model_validate({"models": {"m": {}}})


@pytest.mark.parametrize(("missed", "silent"), [(1, False), (2, True)])
def test_one_answer_may_be_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: int, silent: bool) -> None:
    """As by a machine that stands still for a moment."""
    monkeypatch.setattr(controller, "ANSWER_S", 0.3)
    places, over = iter(range(100)), threading.Event()

    def answer(_: Asked) -> tuple[int, bytes]:
        if next(places) < missed:
            over.wait(20)
        return 200, b"of another generation"

    with web(answer) as gateway, Client("grpc://127.0.0.1:1") as client:
        asking = Controller(Bundle(tmp_path), client, lambda _: None, Settings(gateway_url=gateway.url))
        seen = asking._with_gateway(Seen(), "m", SERVING)
        over.set()
    assert (seen.silent, seen.behind) == (silent, not silent)
