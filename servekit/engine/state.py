"""What `up` writes down about the server it started, so that `status`, `down` and `predict` find it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from servekit.atomic import write_atomically
from servekit.engine import docker
from servekit.paths import Bundle

GRPC_PORT = 8500
REST_PORT = 8501


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Envoy in front of the server that was started."""

    pid: int
    born: str
    metrics_port: int
    """On 127.0.0.1."""
    log: str

    def is_running(self) -> bool:
        return born(self.pid) == self.born


@dataclass(frozen=True, slots=True)
class EngineState:
    """A server that was started. `born` identifies the process: its number alone may belong to another one by now."""

    engine: str
    pid: int
    born: str
    host: str
    grpc_port: int
    rest_port: int
    config_hash: str
    """Of the server's command line and the rendered files at its start."""
    started: str
    """ISO 8601, UTC."""
    log: str
    container: str = ""
    """Its id where Docker runs the server; `pid` and `born` then say nothing."""
    grpc_host: str = ""
    """Where gRPC is published at another address than REST."""
    server_grpc_port: int = 0
    """Behind the gateway, on 127.0.0.1; 0 where clients reach the server itself at `grpc_port`."""
    server_rest_port: int = 0
    """Likewise."""
    gateway: GatewayState | None = None
    """None without a gateway, and until the models are loaded; Docker's is the stack's business."""
    stopping: bool = False
    """It is being ended: what is missing now is not to be started again."""

    @property
    def server_grpc_url(self) -> str:
        """The model server itself, for who loads and proves; clients take `grpc_url`."""
        return f"grpc://127.0.0.1:{self.server_grpc_port}" if self.server_grpc_port else self.grpc_url

    @property
    def gateway_url(self) -> str | None:
        """What the gateway says about itself: its metrics, the routes that it serves."""
        return f"http://127.0.0.1:{self.gateway.metrics_port}" if self.gateway else None

    @property
    def grpc_url(self) -> str:
        return f"grpc://{self.grpc_address}"

    @property
    def grpc_address(self) -> str:
        return f"{self.grpc_host or self.host}:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        return f"http://{self.host}:{self.rest_port}"

    def is_running(self) -> bool:
        return docker.is_running(self.container) if self.container else born(self.pid) == self.born

    @property
    def where(self) -> str:
        """The process or container, for a person."""
        return f"container {self.container[:12]}" if self.container else f"pid {self.pid}"

    def uptime_s(self, now: datetime | None = None) -> float:
        now = now or datetime.now(timezone.utc)
        return (now - datetime.fromisoformat(self.started)).total_seconds()


def path(bundle: Bundle) -> Path:
    return bundle.state / "engine.json"


def read(bundle: Bundle) -> EngineState | None:
    """None when nothing was written, or something that is no state."""
    try:
        document = json.loads(path(bundle).read_text())
        if document.get("gateway"):
            document["gateway"] = GatewayState(**document["gateway"])
        known = {field.name for field in fields(EngineState)}
        return EngineState(**{name: value for name, value in document.items() if name in known})
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def read_running(bundle: Bundle) -> EngineState | None:
    """The state of a server that still runs; None otherwise, also when it died and its state was left behind."""
    state = read(bundle)
    return state if state and state.is_running() else None


def write(bundle: Bundle, state: EngineState) -> None:
    write_atomically(path(bundle), json.dumps(asdict(state), indent=2) + "\n")


def remove(bundle: Bundle) -> None:
    path(bundle).unlink(missing_ok=True)


def born(pid: int) -> str | None:
    """When the process started, in whatever unit the system tells it; None when it has ended (a zombie has)."""
    try:
        # Fields after the command's closing bracket: state first, start time in clock ticks since boot 20th (proc(5)).
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        # No /proc (macOS).
        answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return answer.stdout.strip() or None
    return None if after_name[0] in "ZX" else after_name[19]
