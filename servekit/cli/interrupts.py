"""Signals that end a command in order, as Ctrl-C does."""

from __future__ import annotations

import signal
from types import FrameType


def interrupt_on(*signals: signal.Signals) -> None:
    """Each is like Ctrl-C. What our parent had ignored (nohup) stays ignored, except SIGINT and SIGTERM."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in signals:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
