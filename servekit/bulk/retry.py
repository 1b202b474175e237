"""What is done about a request that got an error instead of answers."""

from __future__ import annotations

import enum

from servekit.errors import Code, StatusError, Unreachable

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Between attempts: long enough for a restarting server to be back, short enough not to wait for a dead one."""

MAX_UNANSWERED = 3
"""Requests in a row that a server may leave without an answer, attempts included, before the run stops."""

# The server may answer the same request a little later.
_TRANSIENT = frozenset((Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.ABORTED))
# The question is at fault, not an image: the version went away, no such call, no permission.
_HOPELESS = frozenset(
    (Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.FAILED_PRECONDITION)
)


class Verdict(enum.Enum):
    RETRY = "ask again after a pause"
    SPLIT = "ask about each image alone: one of them may be what the server refuses"
    RECORD = "the error is the images' result"
    UNANSWERED = "the error is the images' result, and the server may be gone"
    STOP = "end the run"


def verdict(error: StatusError, *, attempt: int, images: int) -> Verdict:
    """`attempt` counts from 0; `images` are those in the request."""
    if error.code in _TRANSIENT:
        if attempt < len(PAUSES_S):
            return Verdict.RETRY
        return Verdict.STOP if isinstance(error, Unreachable) else Verdict.UNANSWERED
    if error.code in _HOPELESS:
        return Verdict.STOP
    return Verdict.SPLIT if images > 1 else Verdict.RECORD
