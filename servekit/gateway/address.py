"""Hosts and ports, and how Envoy writes them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def is_ip(self) -> bool:
        try:
            ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return True

    def envoy(self) -> dict[str, Any]:
        return {"socket_address": {"address": self.host.strip("[]"), "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket in the file system that only its owner can open; relative to Envoy's working directory."""

    path: str

    def envoy(self) -> dict[str, Any]:
        return {"pipe": {"path": self.path, "mode": 0o600}}

    def envoy_client(self) -> dict[str, Any]:
        return {"pipe": {"path": self.path}}
