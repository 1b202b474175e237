"""The target of a request line, taken apart and checked as libevent's `evhttp_uri_parse` does. Pure."""

from __future__ import annotations

import ipaddress
import re

_CHARACTERS = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]"
_ESCAPED = r"%[0-9A-Fa-f]{2}"


def _run(characters: str) -> str:
    return f"{characters}*(?:{_ESCAPED}{characters}*)*"


_PATH = _run(_CHARACTERS)
_REST = _run(_CHARACTERS[:-1] + "?]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_URI = re.compile(
    rf"(?:{_SCHEME.pattern})?(?://(?P<authority>[^/?#]*))?"
    rf"(?P<path>{_PATH})(?P<rest>(?:\?{_REST})?(?:#{_REST})?)"
)
_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=%]"
_AUTHORITY = re.compile(rf"(?:(?:{_NAME}|:)*@)?(?:\[(?P<address>[^\[\]]+)\]|{_NAME}*)(?::(?P<port>[0-9]*))?")
_FUTURE_ADDRESS = re.compile(rf"v[0-9A-Fa-f]+\.(?:{_NAME}|:)*")


def path_and_rest(target: str) -> tuple[str, str] | None:
    """(path, query and fragment with their `?` and `#`), still percent-encoded; scheme and host do not matter.

    None where libevent refuses the target: characters that RFC 3986 does not allow, a `%` without two digits.
    """
    match = _URI.fullmatch(target)
    if match is None or not is_reference(target):
        return None
    return match["path"], match["rest"]


def is_reference(target: str) -> bool:
    """What already the request line must be: a sound authority, and without a scheme no colon before the first slash.

    Its characters are not looked at (libevent's EVHTTP_URI_NONCONFORMANT).
    """
    if target[:1] == "/" and target[:2] != "//":
        return True
    scheme = _SCHEME.match(target)
    rest = target[scheme.end() :] if scheme else target
    if rest[:2] == "//":
        return _is_authority(re.split(r"[/?#]", rest[2:], maxsplit=1)[0])
    return scheme is not None or ":" not in re.split(r"[/?#]", rest, maxsplit=1)[0]


def is_for_a_proxy(target: str) -> bool:
    """An absolute http URI: it names a host, and this server has no names."""
    return target[:1] != "/" and target.lower().startswith(("http://", "https://"))


def _is_authority(text: str) -> bool:
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    address = match["address"]
    if address is None or _FUTURE_ADDRESS.fullmatch(address):
        return True
    try:
        return "%" not in address and bool(ipaddress.IPv6Address(address))
    except ValueError:
        return False
