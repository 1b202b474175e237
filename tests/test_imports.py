"""The direction of imports, and that TensorFlow (seconds to import) is paid for only where a graph is built or run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servekit.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "servekit").rglob("*.py"))
HEAVY = ("tensorflow", "keras", "torch")

# A module whose name starts with the first may not import one that starts with any of the second.
FORBIDDEN = {
    "servekit": ("tests",),
    "servekit.errors": ("servekit",),
    "servekit.model_spec": ("servekit",),
    "servekit.tensors": ("servekit.server", "servekit.client", "servekit.cli", "servekit.export", "servekit.engine"),
    "servekit.protos": ("servekit.server", "servekit.client", "servekit.cli", "servekit.export", "servekit.config"),
    "servekit.config": ("servekit.server", "servekit.client", "servekit.cli", "servekit.export", "servekit.engine"),
    "servekit.client": (
        "servekit.server",
        "servekit.cli",
        "servekit.export",
        "servekit.engine",
        "servekit.config",
        "servekit.bulk",
    ),
    "servekit.bulk": ("servekit.server", "servekit.cli", "servekit.export", "servekit.engine", "servekit.config"),
    "servekit.doctor": ("servekit.cli", "servekit.bulk", "servekit.server.server", "servekit.server.session"),
    "servekit.export": ("servekit.server", "servekit.client", "servekit.cli", "servekit.engine"),
    "servekit.bench": ("servekit.server", "servekit.cli", "servekit.export", "servekit.engine", "servekit.config"),
    "servekit.tune": ("servekit.server", "servekit.cli", "servekit.export"),
    "servekit.rollout": ("servekit.server", "servekit.cli", "servekit.export", "servekit.bulk", "servekit.engine"),
    "servekit.rollout.plan": ("servekit.client",),
    "servekit.rollout.proof": ("servekit.client", "servekit.config"),
    "servekit.analysis": ("servekit.server", "servekit.cli", "servekit.engine", "servekit.rollout", "servekit.canary"),
    "servekit.analysis.verdict": ("servekit.client", "servekit.gateway"),
    "servekit.analysis.compare": ("servekit.gateway",),
    "servekit.monitoring": ("servekit.server", "servekit.cli", "servekit.export"),
    "servekit.monitoring.samples": ("servekit.client", "servekit.engine"),
    "servekit.monitoring.process": ("servekit.client", "servekit.engine"),
    "servekit.engine": ("servekit.cli", "servekit.server", "servekit.export"),
    "servekit.server": ("servekit.cli", "servekit.client", "servekit.export", "servekit.engine", "servekit.config"),
    "servekit.server.core": ("servekit.server.rest", "servekit.server.grpc_edge", "servekit.server.inference"),
    "servekit.server.manager": ("servekit.server.core", "servekit.server.rest", "servekit.server.grpc_edge"),
    "servekit.server.inference": ("servekit.server.rest", "servekit.server.grpc_edge"),
    "servekit.server.rest": ("servekit.server.grpc_edge",),
    "servekit.server.grpc_edge": ("servekit.server.rest", "servekit.server.http", "servekit.server.json_parse"),
}
TENSORFLOW_ALLOWED = ("servekit.server.session", "servekit.export.", "servekit.protos.generate")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    module = name_of(path)
    wrong = {
        imported
        for prefix, forbidden in FORBIDDEN.items()
        if within(module, prefix)
        for imported in imports_of(path)
        if any(within(imported, name) for name in forbidden)
    }
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_graph_code_imports_tensorflow(path: Path) -> None:
    module = name_of(path)
    heavy = {imported for imported in imports_of(path) if imported.split(".")[0] in HEAVY}
    assert not heavy or module.startswith(TENSORFLOW_ALLOWED)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_of_every_command_is_there_without_tensorflow(command: str | None) -> None:
    program = """
import sys, runpy
sys.argv.append("--help")
try:
    runpy.run_module("servekit", run_name="__main__")
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
assert "tensorflow" not in sys.modules
"""
    arguments = [sys.executable, "-c", program, *([command] if command else [])]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage" in (result.stdout + result.stderr).lower()


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    """Over 400 lines a module does more than one thing."""
    assert len(path.read_text().splitlines()) <= 400
