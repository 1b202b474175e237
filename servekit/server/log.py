"""One line an event, in the form of TensorFlow's log: `2026-11-22 03:19:45.123456: I servekit/server/core.py:7] …`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import PurePath

_LETTERS = {logging.DEBUG: "D", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class TensorFlowFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1_000_000)
        letter = _LETTERS.get(record.levelno, "I")
        file = "/".join(PurePath(record.pathname).parts[-3:])
        text = f"{seconds}.{micros:06d}: {letter} {file}:{record.lineno}] {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def log_to_stderr(level: int = logging.INFO) -> None:
    """Sends servekit's log records to stderr; TensorFlow writes its own lines there itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TensorFlowFormatter())
    logger = logging.getLogger("servekit")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
