from __future__ import annotations

import logging
import re

from servekit.server.log import TensorFlowFormatter


def test_a_line_has_the_form_of_tensorflows_log() -> None:
    path = "/somewhere/servekit/server/core.py"
    record = logging.LogRecord("servekit", logging.WARNING, path, 77, "No versions of %s", ("a",), None)
    line = TensorFlowFormatter().format(record)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: W servekit/server/core\.py:77\] No versions of a", line
    )
