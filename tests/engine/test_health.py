from __future__ import annotations

from pathlib import Path

import pytest

from servekit.client import ModelStatus, VersionStatus
from servekit.engine.health import Configured, Observed, configured_models, judged
from servekit.errors import Code, EngineError, StatusError


def versions(**states: str) -> ModelStatus:
    """`v2="AVAILABLE"`; END means that it failed to load, `ended` that it was unloaded."""
    return ModelStatus(
        tuple(
            VersionStatus(
                int(name[1:]),
                "END" if state == "ended" else state,
                Code.UNKNOWN if state == "END" else Code.OK,
                "no file" if state == "END" else "",
            )
            for name, state in states.items()
        )
    )


BOTH = Configured("m", (1, 2), {"stable": 1, "canary": 2})
LATEST = Configured("m", (), {})
GONE = StatusError(Code.NOT_FOUND, "Could not find any versions of model m")


@pytest.mark.parametrize(
    ("configured", "observed", "problems"),
    [
        (BOTH, Observed(versions(v2="AVAILABLE", v1="AVAILABLE"), {"stable": 1, "canary": 2}), []),
        (LATEST, Observed(versions(v3="AVAILABLE", v2="ended"), {}), []),
        (LATEST, Observed(versions(v3="LOADING"), {}), ["m: no version is AVAILABLE"]),
        (LATEST, Observed(versions(v3="END", v2="AVAILABLE"), {}), ["m: version 3 did not load: no file"]),
        (LATEST, Observed(GONE, {}), ["m: NOT_FOUND: Could not find any versions of model m"]),
        (
            BOTH,
            Observed(versions(v2="LOADING", v1="AVAILABLE"), {"stable": 1, "canary": 1}),
            ["m: version 2 is LOADING", "m: label canary means version 1, should be 2"],
        ),
        (
            BOTH,
            Observed(versions(v1="AVAILABLE"), {"stable": 1, "canary": StatusError(Code.INVALID_ARGUMENT, "no label")}),
            ["m: version 2 is configured and not known to the server", "m: label canary: no label"],
        ),
    ],
)
def test_what_is_not_as_configured_is_named(configured: Configured, observed: Observed, problems: list[str]) -> None:
    assert list(judged(configured, observed).problems) == problems


def test_models_are_read_from_the_rendered_file(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    with pytest.raises(EngineError, match="No such file"):
        configured_models(file)
    file.write_text(
        'model_config_list { config { name: "m" base_path: "/m" model_version_policy { specific { versions: [1, 2] } }'
        ' version_labels { key: "canary" value: 2 } version_labels { key: "stable" value: 1 } } }'
    )
    assert configured_models(file) == [Configured("m", (1, 2), {"stable": 1, "canary": 2})]
    file.write_text("nonsense")
    with pytest.raises(EngineError, match=r"models\.config: 1:1"):
        configured_models(file)
