from __future__ import annotations

import logging
import threading
import time

import pytest

from servekit.errors import Code, StatusError
from servekit.server.retrier import retry


class Flaky:
    def __init__(self, failures: int) -> None:
        self.calls = 0
        self.failures = failures

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise StatusError(Code.DATA_LOSS, f"failure {self.calls}")
        return "done"


def run(action: Flaky, retries: int, cancelled: threading.Event | None = None, interval_s: float = 0.001) -> str:
    never = threading.Event()
    return retry("It", action, max_num_retries=retries, interval_s=interval_s, cancelled=cancelled or never)


def test_success_needs_no_retry() -> None:
    action = Flaky(0)
    assert run(action, 5) == "done"
    assert action.calls == 1


def test_it_tries_until_it_works() -> None:
    assert run(Flaky(3), 3) == "done"


def test_after_the_last_retry_the_last_error_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(StatusError, match="failure 3"):
        run(Flaky(9), 2)
    assert [r.getMessage() for r in caplog.records] == [
        "It failed: DATA_LOSS: failure 1",
        "Retrying of It retry: 1",
        "It failed: DATA_LOSS: failure 2",
        "Retrying of It retry: 2",
        "It failed: DATA_LOSS: failure 3",
        "Retrying of It exhausted max_num_retries: 2",
    ]


def test_cancelling_ends_the_pause_between_two_tries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(StatusError, match="failure 1"):
        run(Flaky(9), 5, cancelled, interval_s=30)
    assert time.monotonic() - began < 5
    assert "Retrying of It was cancelled." in caplog.text
