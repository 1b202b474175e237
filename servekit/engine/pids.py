"""Processes of this machine that serve, in containers or not: for whoever tells how much they compute."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from servekit.engine.state import EngineState


def pids(running: EngineState) -> dict[str, int]:
    """`server`, and `gateway` where there is one. Nothing for containers on another machine, such as a desktop's VM:
    their numbers mean nothing here."""
    if not running.container:
        return {"server": running.pid} | ({"gateway": running.gateway.pid} if running.gateway else {})
    described = _inspect(running.container)
    if described is None:
        return {}
    found = {"server": int(described["State"]["Pid"])}
    project = (described["Config"].get("Labels") or {}).get("com.docker.compose.project", "")
    if (gateway_id := _gateway_of(project)) and (gateway := _inspect(gateway_id)):
        found["gateway"] = int(gateway["State"]["Pid"])
    return {name: pid for name, pid in found.items() if pid > 0}


def _inspect(container: str) -> dict[str, Any] | None:
    text = _docker("container", "inspect", container)
    try:
        found: dict[str, Any] = json.loads(text)[0]
    except (ValueError, LookupError):
        return None
    return found


def _gateway_of(project: str) -> str:
    labels = (f"label=com.docker.compose.project={project}", "label=com.docker.compose.service=gateway")
    lines = _docker("ps", "--quiet", *(part for label in labels for part in ("--filter", label))).split()
    return lines[0] if project and lines else ""


def _docker(*arguments: str) -> str:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=15, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
