"""The target of a request line, taken apart and checked as libevent's `evhttp_uri_parse` does. Pure."""

from __future__ import annotations

import re

_CHARACTERS = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]"
_ESCAPED = r"%[0-9A-Fa-f]{2}"


def _run(characters: str) -> str:
    return f"{characters}*(?:{_ESCAPED}{characters}*)*"


_PATH = _run(_CHARACTERS)
_REST = _run(_CHARACTERS[:-1] + "?]")
_URI = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.\-]*:)?(?://(?P<authority>[^/?#]*))?"
    rf"(?P<path>{_PATH})(?P<rest>(?:\?{_REST})?(?:#{_REST})?)"
)
_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=%]"
_AUTHORITY = re.compile(rf"(?:(?:{_NAME}|:)*@)?(?:\[[0-9A-Fa-f:.]+\]|{_NAME}*)(?::[0-9]*)?")


def path_and_rest(target: str) -> tuple[str, str] | None:
    """(path, query and fragment with their `?` and `#`), still percent-encoded; scheme and host do not matter.

    None where libevent refuses the target: characters that RFC 3986 does not allow, a `%` without two digits.
    """
    match = _URI.fullmatch(target)
    if match is None or not _AUTHORITY.fullmatch(match["authority"] or ""):
        return None
    return match["path"], match["rest"]
