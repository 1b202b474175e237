"""Text protobuf files: read into a message, or say why not in TF Serving's words."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from servekit.errors import Code, StatusError

logger = logging.getLogger(__name__)

_CODES = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.FAILED_PRECONDITION,
    errno.ENODEV: Code.NOT_FOUND,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
}


def read_message(path: str, message_type: Any) -> Any:
    """Parses the file into a `message_type`.

    Raises StatusError: NOT_FOUND when there is no file, INVALID_ARGUMENT when it has no bytes at all (TF Serving maps
    the file into memory, which an empty file refuses) or is not a text `message_type`; the place is logged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        number = errno.ENODEV if error.errno == errno.EISDIR else error.errno or 0  # what mapping a folder says
        raise StatusError(_CODES.get(number, Code.UNKNOWN), f"{path}; {os.strerror(number)}") from None
    if not data:
        raise StatusError(Code.INVALID_ARGUMENT, f"{path}; {os.strerror(errno.EINVAL)}")
    message = message_type()
    try:
        text_format.Parse(data, message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        logger.error("Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, error)
        raise StatusError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'") from None
    return message
