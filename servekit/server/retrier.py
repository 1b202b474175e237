"""Trying again, with TF Serving's log lines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from servekit.errors import StatusError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def retry(
    description: str,
    action: Callable[[], T],
    *,
    max_num_retries: int,
    interval_s: float,
    cancelled: threading.Event,
) -> T:
    """Returns what `action` returns, or raises its last StatusError after the retries or as soon as it is cancelled."""
    tries = 0
    while True:
        try:
            return action()
        except StatusError as error:
            logger.error("%s failed: %s", description, error)
            tries += 1
            if tries > max_num_retries and not cancelled.is_set():
                logger.info("Retrying of %s exhausted max_num_retries: %d", description, max_num_retries)
                raise
            if cancelled.wait(interval_s):
                logger.info("Retrying of %s was cancelled.", description)
                raise
            logger.info("Retrying of %s retry: %d", description, tries)
