"""Warm-up: a version answers its recorded requests before it becomes available."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from servekit.errors import Code, StatusError
from servekit.protos import messages

logger = logging.getLogger(__name__)

RECORDS_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

RunLog = Callable[[Any], None]
"""Answers a PredictionLog message's request; raises StatusError."""


def warm_up(
    version_path: Path,
    read_records: Callable[[Path], Iterable[bytes]],
    run: RunLog,
    *,
    iterations: int,
    ended: Callable[[str, float], object],
) -> None:
    """Runs every record of the version's file, each `iterations` times.

    `ended` hears the file's status and the seconds when it has been read to its end or to where it is damaged, but not
    of a record that cannot be parsed or answered, as upstream. `read_records` yields a TFRecord file's records and
    raises StatusError DATA_LOSS where it is damaged. Raises StatusError at the first record that cannot be read, parsed
    or answered, or beyond 1000 records.
    """
    path = version_path / RECORDS_FILE
    if not path.exists():
        logger.info("No warmup data file found at %s", path)
        return
    # `iterations` 0 is "not set": TF Serving prints its options only where they differ from the default.
    shown = f"num_request_iterations {{\n  value: {iterations}\n}}\n" if iterations > 0 else ""
    logger.info("Starting to read warmup data for model at %s with model-warmup-options %s", path, shown)
    began = time.monotonic()

    def tell(status: str) -> float:
        seconds = time.monotonic() - began
        ended(status, seconds)
        return seconds

    number = 0
    for record in _whole(read_records(path), tell):
        log = _parse(record, path)
        for _ in range(max(iterations, 1)):
            run(log)
        number += 1
        if number > MAX_RECORDS:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
            )
    seconds = tell("OK")
    logger.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.",
        path,
        number,
        seconds * 1e6,
    )


def _whole(records: Iterable[bytes], tell: Callable[[str], object]) -> Iterator[bytes]:
    """The records; where their file is damaged, what it should be."""
    try:
        yield from records
    except StatusError as error:
        tell(str(error))
        if error.code is not Code.DATA_LOSS:
            raise
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise StatusError(Code.DATA_LOSS, text) from None


def _parse(record: bytes, path: Path) -> Any:
    try:
        return messages.PredictionLog.FromString(record)
    except DecodeError:
        text = record.decode("utf-8", "ignore")  # as its JSON drops bytes that are not UTF-8
        raise StatusError(Code.INVALID_ARGUMENT, f"Failed to parse warmup record: {text} from {path}") from None
