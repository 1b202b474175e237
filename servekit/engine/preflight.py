"""What must be true before anything is started: free ports, room on the disk."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from servekit.errors import EngineError


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """`ports` by the option that changes them. Raises EngineError naming the port, who has it, and the option."""
    if len(set(ports.values())) < len(ports):
        options = " and ".join(f"--{option}" for option in ports)
        raise EngineError(f"port {next(iter(ports.values()))}: {options} need different ports")
    for option, port in ports.items():
        free = free_port(host) if binding_problem(host, port) == errno.EADDRINUSE else "PORT"
        check_port(host, port, f"take another one: servekit up --{option} {free}")


def check_port(host: str, port: int, way_out: str) -> None:
    """Raises EngineError naming the port and who has it; `way_out` is its hint."""
    problem = binding_problem(host, port)
    if problem == errno.EADDRINUSE:
        owner = port_owner(port)
        raise EngineError(f"port {port} is in use" + (f" by {owner}" if owner else ""), hint=way_out)
    if problem == errno.EADDRNOTAVAIL:
        raise EngineError(f"{host} is no address of this machine", hint="servekit up --bind 127.0.0.1, or 0.0.0.0")
    if problem:
        raise EngineError(f"{host} port {port}: {os.strerror(problem)}", hint=way_out)


def check_disk(folder: Path, needed_mb: int) -> None:
    """Raises EngineError when the file system of `folder` has less than `needed_mb` free."""
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb < needed_mb:
        raise EngineError(f"disk almost full: {free_mb} MB free in {folder}, {needed_mb} MB needed")


def port_owner(port: int) -> str | None:
    """`NAME (pid N)` of the process that listens, where /proc tells it; None otherwise."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(entry.readlink()) in inodes for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return None


def free_port(host: str) -> int:
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def binding_problem(host: str, port: int) -> int | None:
    """Why nobody could listen there now, as an errno; None when it can be done."""
    with socket.socket(_family(host)) as probe:
        # As servers do: a connection of an earlier server in TIME_WAIT does not count. No SO_REUSEPORT: gRPC sets it,
        # and would share the port with a stranger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except socket.gaierror:
            return errno.EADDRNOTAVAIL
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _listening_inodes(port: int) -> set[str]:
    """Columns of /proc/net/tcp: local address, state (0A is LISTEN), inode (proc(5))."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(columns[9])
    return inodes
