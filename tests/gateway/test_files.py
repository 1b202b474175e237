"""What is written for Envoy: it takes it, it can be read back, and rendering does not run ahead of the controller."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml

from servekit.config.bundle import render_bundle
from servekit.config.render import render
from servekit.config.serving import Serving
from servekit.errors import ServekitError
from servekit.gateway import counters, program
from servekit.gateway.files import read_splits, write_routes
from servekit.gateway.splits import Split, desired_splits, generation, not_raised
from servekit.paths import Bundle
from tests.conftest import ROOT

CANARY = {"weight": 10, "sticky": "x-user-id", "mirror": 5}
LABELS = {"stable": 1, "canary": 2}


def serving_of(canary: dict[str, Any] | None = CANARY, labels: dict[str, int] = LABELS, **more: Any) -> Serving:
    model = {"versions": {"specific": [1, 2]}, "labels": labels} | ({"canary": canary} if canary else {})
    return Serving.model_validate({"models": {"half": model, "plain": {}, 'odd "näme"': model}, **more})


@pytest.mark.parametrize(
    "serving",
    [serving_of(), serving_of(gateway={"retries": 0, "deadline_ms": 1}), serving_of(None, gateway={"enabled": False})],
    ids=["canary", "no-retries", "off"],
)
def test_envoy_takes_what_is_rendered(serving: Serving, tmp_path: Path) -> None:
    envoy = program.find()
    assert envoy is not None
    texts = render(serving, models=tmp_path, templates=ROOT / "config" / "templates")
    write_routes(Bundle(tmp_path), serving, desired_splits(serving), container=True)
    folder = tmp_path / "config" / "rendered" / "container"
    text = texts["container/gateway/envoy.yaml"].replace("/etc/servekit", str(folder))
    (tmp_path / "envoy.yaml").write_text(text)
    # Routes too, which it reads only when it runs: as part of the bootstrap.
    bootstrap = yaml.safe_load(text)
    [table] = yaml.safe_load((folder / "gateway" / "routes.yaml").read_text())["resources"]
    table.pop("@type")
    for listener in bootstrap["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if manager.pop("rds", None):
            manager["route_config"] = table
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(bootstrap))
    for name in ("envoy.yaml", "whole.yaml"):
        done = subprocess.run(
            [envoy, "--mode", "validate", "-c", name, "-l", "warn"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "eprecated" not in done.stderr


def test_splits_are_of_models_with_a_label_stable() -> None:
    assert desired_splits(serving_of()) == dict.fromkeys(("half", 'odd "näme"'), Split(10, "x-user-id", 5))
    assert desired_splits(serving_of(None)) == dict.fromkeys(("half", 'odd "näme"'), Split())
    assert desired_splits(serving_of({"sticky": "x-a"}, {"stable": 1}))["half"] == Split(sticky="x-a")
    assert desired_splits(serving_of(None, gateway={"enabled": False})) == {}


def test_what_was_written_is_read_back_and_named(tmp_path: Path) -> None:
    here, serving = Bundle(tmp_path), serving_of()
    splits = {"half": Split(25, "x-user-id", 3), 'odd "näme"': Split()}
    assert read_splits(here, container=False) == {}
    for container in (False, True):
        assert write_routes(here, serving, splits, container=container) == generation(splits, serving)
        assert read_splits(here, container=container) == splits
    assert generation(splits, serving) != generation({**splits, "half": Split(26, "x-user-id", 3)}, serving)
    (here.rendered / "gateway" / "routes.yaml").write_text("resources: []\n")
    with pytest.raises(ServekitError, match=r"routes\.yaml: no route file"):
        read_splits(here, container=False)


def test_rendering_lowers_weights_and_leaves_the_rest_to_the_controller(tmp_path: Path) -> None:
    here = Bundle(tmp_path)
    shutil.copytree(ROOT / "config" / "templates", here.templates)
    for version in (1, 2):
        shutil.copytree(ROOT / "tests" / "models" / "half_plus_two" / "1", here.models / "half" / str(version))

    def rendered(canary: str, more: str = "") -> dict[str, Split]:
        model = f"{{versions: {{specific: [1, 2]}}, labels: {{stable: 1, canary: 2}}, canary: {canary}}}"
        here.serving_yaml.write_text(f"models: {{half: {model}}}\n{more}")
        render_bundle(here)
        assert read_splits(here, container=True) == read_splits(here, container=False)
        return read_splits(here, container=False)

    assert rendered("{weight: 20}") == {"half": Split(20)}  # nothing was there
    assert rendered("{weight: 50, mirror: 1, sticky: x-u}") == {"half": Split(20, "x-u", 0)}
    assert rendered("{weight: 5}") == {"half": Split(5)}
    assert rendered("{weight: 20}") == {"half": Split(5)}
    assert not_raised({"new": Split()}, {}) == {}


def test_counters_that_went_down_are_those_of_a_new_gateway() -> None:
    labels = 'model="m",label="canary",protocol="%s",method="%s",traffic="%s",code="%s",grpc_status="%s"'
    line = f"{counters.REQUESTS}{{{labels}}} %d\n"
    before = counters.parse(
        line % ("rest", "predict", "client", "200", "", 9) + line % ("rest", "status", "client", "200", "", 7)
    )
    assert before["m", "canary"].rest.requests == {"200": 9.0}
    after = counters.parse(
        line % ("rest", "predict", "client", "200", "", 4)
        + line % ("grpc", "predict", "client", "200", "INTERNAL", 2)
        + line % ("grpc", "predict", "copy", "200", "OK", 3)
    )
    since = after["m", "canary"] - before["m", "canary"]
    assert (since.rest.total, since.grpc.succeeded, since.clients.total, since.copied.total) == (4, 0, 6, 3)


def test_places_in_a_container_are_the_container_s() -> None:
    texts = render(serving_of(), models=Path("/x"), templates=ROOT / "config" / "templates")
    document = yaml.safe_load(texts["container/gateway/envoy.yaml"])
    listeners = {one["name"]: one.get("address") for one in document["static_resources"]["listeners"]}
    assert listeners["rest"] == {"socket_address": {"address": "0.0.0.0", "port_value": 8501}}
    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert str(PurePath("/etc/servekit/gateway/routes.yaml")) in texts["container/gateway/envoy.yaml"]
