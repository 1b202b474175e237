from __future__ import annotations

import pytest

from servekit.bulk.retry import PAUSES_S, Verdict, verdict
from servekit.errors import Code, StatusError, Unreachable

LAST = len(PAUSES_S)


@pytest.mark.parametrize(
    ("error", "attempt", "images", "expected"),
    [
        (Code.UNAVAILABLE, 0, 8, Verdict.RETRY),
        (Code.RESOURCE_EXHAUSTED, LAST - 1, 8, Verdict.RETRY),
        (Code.DEADLINE_EXCEEDED, LAST, 8, Verdict.UNANSWERED),
        (None, 0, 8, Verdict.RETRY),
        (None, LAST, 8, Verdict.STOP),
        (Code.INVALID_ARGUMENT, 0, 8, Verdict.SPLIT),
        (Code.INVALID_ARGUMENT, 0, 1, Verdict.RECORD),
        (Code.INTERNAL, 0, 2, Verdict.SPLIT),
        (Code.NOT_FOUND, 0, 8, Verdict.STOP),
        (Code.PERMISSION_DENIED, 0, 1, Verdict.STOP),
    ],
)
def test_an_error_is_retried_split_recorded_or_the_end(
    error: Code | None, attempt: int, images: int, expected: Verdict
) -> None:
    """None stands for a server that cannot be reached."""
    raised = Unreachable("gone") if error is None else StatusError(error, "text")
    assert verdict(raised, attempt=attempt, images=images) is expected
