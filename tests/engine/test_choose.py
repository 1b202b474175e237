from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit.engine.choose import Engine, Unusable, choose, probes
from servekit.errors import EngineError

NATIVE = Engine("native", ("/bin/tensorflow_model_server",), "TensorFlow ModelServer: 2.19.1", listens_where_told=False)
EMBEDDED = Engine("embedded", ("python", "-m", "servekit", "serve"), "servekit's own server", listens_where_told=True)
NO_NATIVE = Unusable("no tensorflow_model_server on PATH", "servekit up --engine embedded")


def test_auto_takes_the_first_that_works_and_says_why() -> None:
    engine, why = choose("auto", {"native": lambda: NATIVE, "embedded": lambda: EMBEDDED})
    assert (engine, why) == (NATIVE, "engine native: TensorFlow ModelServer: 2.19.1")
    engine, why = choose("auto", {"native": lambda: NO_NATIVE, "embedded": lambda: EMBEDDED})
    assert engine is EMBEDDED
    assert why == "engine embedded: servekit's own server; not native: no tensorflow_model_server on PATH"


def test_a_named_engine_that_cannot_run_is_an_error_with_a_way_out() -> None:
    with pytest.raises(EngineError, match="engine native: no tensorflow_model_server on PATH") as error:
        choose("native", {"native": lambda: NO_NATIVE, "embedded": lambda: EMBEDDED})
    assert error.value.hint == "servekit up --engine embedded"
    with pytest.raises(EngineError, match="no engine works here"):
        choose("auto", {"native": lambda: NO_NATIVE})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo "TensorFlow ModelServer: 2.19.1-rc0"; echo "TensorFlow Library: 2.19.1"', "ModelServer: 2.19.1-rc0"),
        ("exit 126", "exit status 126"),
        (None, "no tensorflow_model_server on PATH"),
    ],
    ids=["runs", "fails", "missing"],
)
def test_native_is_a_binary_on_path_that_runs(
    script: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    if script is not None:
        program = tmp_path / "tensorflow_model_server"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    found = probes()["native"]()
    assert expected in (found.about if isinstance(found, Engine) else found.why)
