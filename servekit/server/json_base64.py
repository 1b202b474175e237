"""Base64 as absl::Base64Unescape reads it: padding may be missing, white space and wrong tail bits do not matter."""

from __future__ import annotations

import base64
import binascii
import re

from servekit.errors import Code, StatusError

_WHITE_SPACE = re.compile(r"[\t-\r ]+")
_TEXT = re.compile(r"[A-Za-z0-9+/]*")


def decode(text: str) -> bytes:
    """Raises StatusError INVALID_ARGUMENT; the url-safe alphabet is refused, `.` is padding like `=`."""
    try:
        if len(text) % 4 == 0:
            return base64.b64decode(text, validate=True)  # all but a few requests, at the speed of C
    except (ValueError, binascii.Error):
        pass
    compact = _WHITE_SPACE.sub("", text)
    data = compact.rstrip("=.")
    padding = len(compact) - len(data)
    missing = -len(data) % 4
    if not _TEXT.fullmatch(data) or len(data) % 4 == 1 or padding not in (0, missing):
        raise StatusError(Code.INVALID_ARGUMENT, "Unable to base64 decode")
    return base64.b64decode(data + "=" * missing)
