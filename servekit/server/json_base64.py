"""Base64 as absl::Base64Unescape reads it: padding may be missing, white space and wrong tail bits do not matter."""

from __future__ import annotations

import base64
import contextlib
import string

from servekit.errors import Code, StatusError

_WHITE_SPACE = b"\t\n\v\f\r "
_ALPHABET = string.ascii_letters.encode() + string.digits.encode() + b"+/"


def decode(text: str) -> bytes:
    """Raises StatusError INVALID_ARGUMENT; the url-safe alphabet is refused, `.` is padding like `=`."""
    if len(text) % 4 == 0:
        with contextlib.suppress(ValueError):
            return base64.b64decode(text, validate=True)  # all but a few requests
    compact = text.encode("ascii", "replace").translate(None, _WHITE_SPACE)
    data = compact.rstrip(b"=.")
    padding = len(compact) - len(data)
    missing = -len(data) % 4
    if data.translate(None, _ALPHABET) or len(data) % 4 == 1 or padding not in (0, missing):
        raise _refused()
    return base64.b64decode(data + b"=" * missing)


def _refused() -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, "Unable to base64 decode")
