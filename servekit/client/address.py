"""Addresses of model servers, and what is said when nobody answers there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from servekit.errors import Code, ExitCode, ServekitError, StatusError, Unreachable

_LOOPBACK = re.compile(r"127\.|localhost$|::1$")


class AddressError(ServekitError):
    """A URL that no client can use."""

    exit_code = ExitCode.USAGE


def is_grpc(url: str) -> bool:
    """Raises AddressError for anything but http(s)://HOST[:PORT] and grpc(s)://HOST:PORT."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https", "grpc", "grpcs") and parts.hostname and parts.path in ("", "/")
        usable = usable and (parts.port is not None or parts.scheme in ("http", "https"))
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise AddressError(
            f"{url!r} is not a model server's address",
            hint="http://127.0.0.1:8501 for REST, grpc://127.0.0.1:8500 for gRPC",
        )
    return parts.scheme.startswith("grpc")


def unreachable(url: str, details: str) -> Unreachable:
    """`details` is the client library's text."""
    if "Trying to connect an http1.x server" in details:
        return Unreachable(f"{url} answers, but not in gRPC", hint="gRPC has a port of its own, usually 8500")
    if "illegal request line" in details or "illegal status line" in details:
        return Unreachable(f"{url} answers, but not in HTTP", hint="REST has a port of its own, usually 8501")
    reason = "connection refused" if "refused" in details else details
    local = _LOOPBACK.match(urlsplit(url).hostname or "")
    hint = "start one: servekit up" if local else "check host and port: REST usually has 8501, gRPC 8500"
    return Unreachable(f"no model server answers at {url}: {reason}", hint=hint)


def too_late(url: str, timeout_s: float) -> StatusError:
    """The request was sent, or was being sent, when the time was up; the server may still be busy with it."""
    message = f"{url} did not answer within {timeout_s:.3g} s"
    return StatusError(Code.DEADLINE_EXCEEDED, message, hint="to wait longer: --timeout SECONDS")


def not_connected(url: str, timeout_s: float) -> Unreachable:
    return unreachable(url, f"no connection within {timeout_s:.3g} s")
