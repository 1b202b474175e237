"""The demonstration itself: `scripts/demo-canary`, one round of it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_good_canary_is_promoted_three_bad_ones_are_rolled_back_and_no_request_is_lost() -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "demo-canary", "--json"], capture_output=True, text=True, check=False, timeout=570
    )
    assert result.returncode == 0, result.stdout + result.stderr
    counts = json.loads(result.stdout)
    assert counts["failed_otherwise"] == 0
    assert counts["failed_by_the_broken_canary_itself"] > 0
    assert counts["requests"] > 1000
    assert counts["answered"].keys() == {"stable", "canary"}
    assert (counts["label_moves"], counts["loads"], counts["unloads"]) == (9, 5, 4)
