"""Replays what a real TensorFlow Serving 2.19.1 answered (../shared/conformance) against `servekit serve`.

All shards start at once, a few at a time, with the first test that asks; each test waits for its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
CORPUS = ROOT.parent / "shared" / "conformance"
WORKERS = int(os.environ.get("SERVEKIT_REPLAY_WORKERS", "2"))
FIRST_PORT, PORTS_A_SHARD = 21000, 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Shard:
    """Cases by the server that answers them, scenarios by group: few servers to start, readable failures."""

    kind: str
    name: str

    def arguments(self) -> list[str]:
        option = "--profile" if self.kind == "cases" else "--group"
        return ["--only", self.kind, option, self.name]


FAULTS = Shard("scenarios", "upstream_faults")
"""Crashes and hangs of the recorded server: facts, not something to copy."""

BETTER = {
    "scenario/rest_threads_one": ("status", 200),
    "scenario/batched_empty": ("status", 200),
    "scenario/tensor_content_by_rest": ("status", 200),
    "scenario/batching_zero": ("exit_code", 255),
    "scenario/monitoring_file_bad": ("exit_code", 255),
    "scenario/monitoring_file_missing": ("exit_code", 255),
}
"""What this server does in each of them instead."""


def corpus_shards() -> list[Shard]:
    if not CORPUS.is_dir():
        return []
    cases = Counter(record["server"] for record in records("cases.jsonl"))
    scenarios = Counter(record["group"] for record in records("scenarios.jsonl"))
    del scenarios[FAULTS.name]
    longest_first = [Shard("scenarios", name) for name, _ in scenarios.most_common()]
    return longest_first + [Shard("cases", name) for name, _ in cases.most_common()]


def records(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / file).read_text().splitlines() if line.strip()]


def exceptions() -> dict[str, str]:
    """Id to reason."""
    lines = (Path(__file__).parent / "exceptions.txt").read_text().splitlines()
    split = (line.partition(" ") for line in lines if line.strip() and not line.startswith("#"))
    return {id: reason.strip() for id, _, reason in split}


SHARDS = corpus_shards()


def replay(shard: Shard, folder: Path) -> list[dict[str, Any]]:
    """Results of a shard. What fails is replayed once more: the recordings have time limits, and machines have load."""
    results = run_replay(shard, folder / f"{shard.kind}-{shard.name}.json", shard.arguments())
    failed = [r["id"] for r in results if not r["passed"] and r["id"] not in exceptions()]
    if not failed or shard == FAULTS:
        return results
    print(f"replayed once more: {', '.join(failed)}")
    again = run_replay(shard, folder / f"{shard.kind}-{shard.name}-again.json", ["--ids", ",".join(failed)])
    return [r for r in results if r["id"] not in failed] + again


def run_replay(shard: Shard, results: Path, selection: list[str]) -> list[dict[str, Any]]:
    first_port = FIRST_PORT + [*SHARDS, FAULTS].index(shard) * PORTS_A_SHARD
    command = [
        sys.executable,
        str(CORPUS / "replay.py"),
        *("--server-command", f"{sys.executable} -m servekit serve --grpc_max_threads=64"),
        *("--tf-messages", "code"),
        *("--ports", f"{first_port}-{first_port + PORTS_A_SHARD - 1}"),
        *("--json", str(results)),
        *selection,
    ]
    environment = {**os.environ, "SERVEKIT_BIND_ADDRESS": "127.0.0.1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if not results.exists():
        raise AssertionError(f"replay.py ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: list[dict[str, Any]] = json.loads(results.read_text())["results"]
    return found


@pytest.fixture(scope="module")
def replays(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Shard, Future[list[dict[str, Any]]]]]:
    """The shards of the selected tests, replayed WORKERS at a time."""
    folder = tmp_path_factory.mktemp("replay")
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    wanted = [call.params["shard"] for call in calls if call is not None and "shard" in call.params]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {shard: pool.submit(replay, shard, folder) for shard in wanted}
        pool.shutdown(cancel_futures=True)


def test_the_recordings_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    if not SHARDS:
        text = "no recordings at ../shared/conformance: nothing was replayed"
        with capsys.disabled():
            print(f"\nconformance: {text}")
        pytest.skip(text)


@pytest.mark.parametrize("shard", SHARDS, ids=[f"{s.kind}-{s.name}" for s in SHARDS])
def test_answers_as_tensorflow_serving(shard: Shard, replays: dict[Shard, Future[list[dict[str, Any]]]]) -> None:
    expected = exceptions()
    results = replays[shard].result()
    assert results, "nothing was replayed"
    failed = {r["id"]: r["differences"] for r in results if not r["passed"]}
    unexpected = {id: differences for id, differences in failed.items() if id not in expected}
    assert not unexpected, json.dumps(unexpected, indent=1, ensure_ascii=False)[:20_000]
    passed_after_all = sorted(set(expected) & {r["id"] for r in results if r["passed"]})
    assert not passed_after_all, "remove these from exceptions.txt, they pass"


@pytest.mark.parametrize("shard", [FAULTS] if SHARDS else [], ids=lambda s: f"{s.kind}-{s.name}")
def test_crashes_and_hangs_of_the_recorded_server_are_not_copied(
    shard: Shard, replays: dict[Shard, Future[list[dict[str, Any]]]]
) -> None:
    got = {r["id"]: [(d["field"], d["got"]) for d in r["differences"]] for r in replays[shard].result()}
    assert got.keys() == BETTER.keys()
    assert not {id: differences for id, differences in got.items() if BETTER[id] not in differences}


@pytest.mark.skipif(not SHARDS, reason="no recordings")
def test_exceptions_are_at_most_one_percent_of_the_cases() -> None:
    assert len(exceptions()) <= 0.01 * (len(records("cases.jsonl")) + len(records("scenarios.jsonl")))
