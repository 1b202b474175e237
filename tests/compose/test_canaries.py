"""The demonstration of canaries on the Compose stack: its gateway, its controller, its server under load."""

from __future__ import annotations

import json
import os

import pytest

from servekit.canary import demo
from servekit.paths import Bundle
from tests.compose.conftest import PERSON, Clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GOOD, WRONG = demo.STORIES[0], demo.STORIES[3]


@pytest.fixture
def running(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A stack that serves the demonstration's classifier alone."""
    bundle = Bundle(clone.root)
    demo.prepare(bundle, print)
    for name in ("rollout.lock", "serving.lock"):  # a person's commands and the controller share them
        (bundle.state / name).touch()
    if os.geteuid() == 0:
        clone.run("chown", "-R", f"{PERSON}:{PERSON}", str(clone.root))
    clone.compose("up", "--detach", "--wait", "tfserving", "gateway", "controller", timeout_s=400)
    for name, value in clone.env.items():
        monkeypatch.setenv(name, value)
    return bundle


def test_a_good_canary_is_promoted_and_a_wrong_one_rolled_back_in_containers(running: Bundle, clone: Clone) -> None:
    rest_url, grpc_address = f"http://127.0.0.1:{clone.ports['REST_PORT']}", f"127.0.0.1:{clone.ports['GRPC_PORT']}"

    def loads() -> tuple[int, int]:
        return demo.count_loads(clone.compose("logs", "--no-color", "tfserving"))

    total = demo.tell(running, rest_url, grpc_address, demo.Goal(), 40, print, loads, (GOOD, WRONG))
    assert total.wrong_ends == []
    assert total.lost == []
    assert total.sent > 500
    assert total.answered.keys() == {"stable", "canary"}
    assert (total.label_moves, total.loads, total.unloads) == (5, 3, 2)
    what_the_gateway_gives_out_is_known_inside_the_stack(clone)


def what_the_gateway_gives_out_is_known_inside_the_stack(clone: Clone) -> None:
    """A person on the host is told where to ask; there commands are the owner's, with every address known."""
    on_host = clone.servekit("canary", "status", "--url", f"grpc://127.0.0.1:{clone.ports['GRPC_PORT']}")
    assert "100 % wanted, not known" in on_host.stdout
    assert "docker compose exec controller servekit canary status" in on_host.stdout
    document = json.loads(clone.compose("exec", "-T", "controller", "servekit", "canary", "status", "--json"))
    assert document["problems"] == document["notes"] == []
    assert document["models"][0]["weight"] == {"desired": 0, "actual": 0}
    assert document["controller"]["watches"] is True
