"""Local images in place of the registry's: a real Prometheus, the embedded server as tensorflow/serving, Grafana."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from servekit.gateway import program as gateway_program

ROOT = Path(__file__).resolve().parents[2]
STANDINS = Path(__file__).parent / "standins"
TOOLS = Path.home() / ".cache" / "servekit" / "tools"
TAG = "servekit-test"
"""No image of this tag is on any registry."""


def build(python_image: str, env: Mapping[str, str]) -> None:
    """`tensorflow/serving`, `prom/prometheus` and `grafana/grafana` with TAG. servekit:TAG has to be there."""
    command = [str(ROOT / "scripts" / "debian-tools"), str(TOOLS), "prometheus", "promtool", "busybox-static"]
    programs = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    busybox = programs / "busybox"
    _build(
        env, "tensorflow/serving", f"servekit:{TAG}", {"tensorflow_model_server": STANDINS / "tensorflow_model_server"}
    )
    envoy = gateway_program.find()
    assert envoy is not None
    _build(env, "envoyproxy/envoy", python_image, {"envoy": envoy})
    _build(env, "grafana/grafana", python_image, {"busybox": busybox, "grafana.py": STANDINS / "grafana.py"})
    files = {f"root/bin/{name}": programs / name for name in ("busybox", "prometheus", "promtool")}
    listing = subprocess.run(["ldd", programs / "prometheus"], check=False, capture_output=True, text=True).stdout
    libraries = [word for word in listing.split() if word.startswith("/")]
    _build(env, "prom/prometheus", None, files | {f"root{path}": Path(path).resolve() for path in libraries})


def _build(env: Mapping[str, str], image: str, base: str | None, files: Mapping[str, Path]) -> None:
    dockerfile = STANDINS / f"{image.rpartition('/')[2].replace('serving', 'tfserving')}.Dockerfile"
    with tempfile.TemporaryDirectory() as folder:
        for name, source in files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            shutil.copystat(dockerfile, target)  # the classic builder's cache looks at times
            target.chmod(0o755)
        command = ["docker", "build", "-q", "-t", f"{image}:{TAG}", "-f", str(dockerfile), folder]
        if base:
            command[2:2] = ["--build-arg", f"BASE={base}"]
        subprocess.run(command, env=env, check=True, capture_output=True)
