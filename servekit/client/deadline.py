"""How long a call may take, its retries and the metadata it asks for included."""

from __future__ import annotations

import time
from dataclasses import dataclass

_LEAST_S = 0.001


@dataclass(frozen=True, slots=True)
class Deadline:
    """`timeout_s` is what the caller gave, and what messages name; `ends` is in seconds of time.monotonic()."""

    timeout_s: float
    ends: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        return cls(timeout_s, time.monotonic() + timeout_s)

    def left_s(self) -> float:
        """At least a millisecond: 0 would mean for ever to some libraries."""
        return max(_LEAST_S, self.ends - time.monotonic())

    def is_over(self) -> bool:
        return time.monotonic() > self.ends
