"""Imports TensorFlow without its start-up chatter on the terminal; real errors still come as exceptions."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def import_tensorflow(log: Path) -> None:
    """Its C++ code writes to file descriptor 2 before any setting is read; that goes to `log`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with stderr_to(log):
        import tensorflow  # noqa: F401
    # The TF1 builder is deprecated, and what the server reads; a Ctrl-C leaves tensors unused. Errors are exceptions.
    logging.getLogger("tensorflow").setLevel(logging.CRITICAL)


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(descriptor, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(descriptor)
