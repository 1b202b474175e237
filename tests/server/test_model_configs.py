from __future__ import annotations

from typing import Any

import pytest

from servekit.errors import Code, StatusError
from servekit.protos import messages
from servekit.server.model_configs import (
    check_names_and_paths,
    check_no_logging,
    check_platforms_known,
    check_platforms_stay,
    platform,
)


def model(name: str = "a", base_path: str = "/m/a", model_platform: str = "tensorflow", **more: Any) -> Any:
    return messages.ModelConfig(name=name, base_path=base_path, model_platform=model_platform, **more)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([model(), model()], "Illegal to list model a multiple times in config list"),
        (
            [model(), model("b", "m/b")],
            "Expected model b to have an absolute path or URI; got base_path()=m/b",
        ),
        (
            [model("b", "my-files://b")],
            "Expected model b to have an absolute path or URI; got base_path()=my-files://b",
        ),
        ([model("b", "a://b")], "Expected model b to have an absolute path or URI; got base_path()=a://b"),
        ([model("b", "")], "Expected model b to have an absolute path or URI; got base_path()="),
    ],
    ids=["twice", "relative", "no scheme that io::ParseURI knows", "a scheme of one letter", "empty"],
)
def test_lists_that_are_refused(models: list[Any], message: str) -> None:
    with pytest.raises(StatusError) as refused:
        check_names_and_paths(models)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, message)


def test_an_empty_name_and_a_uri_are_accepted() -> None:
    check_names_and_paths([model(""), model("b", "file:///m/b")])


def test_a_model_keeps_its_platform() -> None:
    with pytest.raises(StatusError) as refused:
        check_platforms_stay([model()], [model(model_platform="other")])
    assert refused.value.message == (
        "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested is other"
    )
    check_platforms_stay([model()], [model(), model("b", model_platform="other")])


def test_only_tensorflow_is_served() -> None:
    with pytest.raises(StatusError, match="Model a requests unsupported platform pytorch"):
        check_platforms_known([model(model_platform="pytorch")])


def test_the_deprecated_model_type_means_tensorflow() -> None:
    assert platform(model(model_platform="", model_type=1)) == "tensorflow"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (model(model_platform=""), "Illegal setting neither .*, model name is a"),
        (model(model_type=1), "Illegal setting both .* ModelServerConfig::model_platform, model name is a"),
        (model(model_platform="", model_type=2), "ModelServerConfig::model_type choice 2 not supported."),
    ],
    ids=["neither", "both", "other"],
)
def test_platforms_that_are_refused(config: Any, message: str) -> None:
    with pytest.raises(StatusError, match=message):
        platform(config)


def test_a_logging_config_is_refused() -> None:
    config = model()
    config.logging_config.SetInParent()
    with pytest.raises(StatusError, match="No request-logger-creator provided"):
        check_no_logging([config])
