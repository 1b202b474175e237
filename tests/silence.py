"""Reading from a connection that the other side may keep open."""

from __future__ import annotations

import socket

SLICES = 20


def until_silence(connection: socket.socket, silence_s: float) -> bytes:
    """What comes until the other side closes, however it does, or says nothing for `silence_s`.

    In slices: a machine that stands still for a second uses up one of them, and the other side may still answer.
    """
    connection.settimeout(silence_s / SLICES)
    received, silent = b"", 0
    while silent < SLICES:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            silent += 1
            continue
        except ConnectionResetError:
            break
        if not data:
            break
        received, silent = received + data, 0
    return received
