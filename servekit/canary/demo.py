"""Four canaries on a real server under steady load: a good one, a slow one, one with errors, one that is wrong.

Every step is a command that people type; the controller that `servekit up` starts does the rest. What is counted: each
request, who answered it, label moves, loads and unloads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from servekit.bench.payload import requests
from servekit.canary.demo_load import Counts, Failure, Load
from servekit.config.load import load as load_serving
from servekit.engine import state
from servekit.engine.preflight import free_port
from servekit.errors import EngineError
from servekit.export import demo as versions
from servekit.model_spec import ModelSpec
from servekit.paths import Bundle
from servekit.rollout import history
from servekit.rollout.history import Event

MODEL = "classifier"
PATIENCE_S = 120.0
_LOADED = "Successfully loaded servable version"
_UNLOADED = "Done unloading servable version"

SERVING = """\
# The demonstration's own: one small classifier.
models:
  classifier:
    versions: {specific: [1]}
    labels: {stable: 1}
    canary:
      analysis:
        interval: 1s
        threshold: 2
        step_weight: 45
        max_weight: 100
        min_requests: 8
        p99_ratio: 2              # latencies are a busy machine's
        agreement: {samples: config/samples.json, count: 4}
"""


@dataclass(frozen=True, slots=True)
class Story:
    """A canary, and how it has to end."""

    title: str
    version: int | None
    """None: the good version that is not stable."""
    ends: str
    reason: str = ""
    """What the reason of its rollback has to name."""


STORIES = (
    Story("a good canary", None, "promoted"),
    Story("a canary that is slow", versions.SLOW, "rolled back", "p99 ratio"),
    Story("a canary that returns errors", versions.FAILING, "rolled back", "success rate"),
    Story("a canary that answers 200 and is wrong", versions.UNSCALED, "rolled back", "agreement"),
)


@dataclass(slots=True)
class Total:
    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    own: int = 0
    """Errors that a canary itself answered."""
    lost: list[Failure] = field(default_factory=list)
    label_moves: int = 0
    loads: int = 0
    unloads: int = 0
    wrong_ends: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, counts: Counts) -> None:
        self.sent += counts.sent
        self.answered += counts.answered
        self.lost += counts.lost
        self.own += len(counts.failures) - len(counts.lost)

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.sent,
            "answered": dict(self.answered),
            "failed_by_the_broken_canary_itself": self.own,
            "failed_otherwise": len(self.lost),
            "label_moves": self.label_moves,
            "loads": self.loads,
            "unloads": self.unloads,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """The rounds go on until all of it is reached."""

    requests: int = 0
    label_moves: int = 0
    loads: int = 0
    unloads: int = 0

    def is_reached(self, total: Total) -> bool:
        return (
            total.sent >= self.requests
            and total.label_moves >= self.label_moves
            and total.loads >= self.loads
            and total.unloads >= self.unloads
        )


Say = Callable[[str], None]


def run(home: Path, templates: Path, goal: Goal, rate: float, say: Say) -> Total:
    """In the empty folder `home`, with the embedded server; whatever it starts, it ends. Raises EngineError when a
    command fails."""
    bundle, began = Bundle(home), time.monotonic()
    shutil.copytree(templates, bundle.templates)
    prepare(bundle, say)
    with _server(bundle, say) as running:

        def loads() -> tuple[int, int]:
            return count_loads(Path(running.log).read_text(errors="replace"))

        total = tell(bundle, running.rest_url, running.grpc_address, goal, rate, say, loads)
    total.seconds = time.monotonic() - began
    return total


def tell(
    bundle: Bundle, rest_url: str, grpc_address: str, goal: Goal, rate: float, say: Say,
    loads: Callable[[], tuple[int, int]], stories: Sequence[Story] = STORIES,
) -> Total:  # fmt: skip
    """The stories, again and again until the goal is reached, on a stack that runs and watches a bundle which
    `prepare` has filled. `loads`: how many loads and unloads there were so far."""
    total, began = Total(), time.monotonic()
    with Load(_host(rest_url), grpc_address, _requests(), rate) as load:
        while True:
            for story in stories:
                total.add(_tell(bundle, story, load, total, say))
            total.loads, total.unloads = loads()
            if goal.is_reached(total) or total.wrong_ends:
                break
    total.add(load.taken())
    total.seconds = time.monotonic() - began
    return total


def prepare(bundle: Bundle, say: Say) -> None:
    """Models, samples and serving.yaml of the demonstration; other models of the bundle are left out."""
    bundle.serving_yaml.parent.mkdir(parents=True, exist_ok=True)
    bundle.serving_yaml.write_text(SERVING)
    (bundle.root / "config" / "samples.json").write_text(versions.bodies(40))
    say("five versions of a small classifier are exported ...")
    command = [sys.executable, "-m", "servekit.export.demo", str(bundle.models / MODEL)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"the versions could not be exported:\n{done.stderr[-2000:]}")


@contextmanager
def _server(bundle: Bundle, say: Say) -> Iterator[state.EngineState]:
    grpc_port, rest_port = free_port("127.0.0.1"), free_port("127.0.0.1")
    ports = ("--port", str(grpc_port), "--rest-api-port", str(rest_port))
    try:
        _type(bundle, say, "up", "--engine", "embedded", "--detach", "--no-demo", *ports)
        running = state.read_running(bundle)
        if running is None:
            raise EngineError("the server that was started is gone", hint="servekit status")
        yield running
    finally:
        _type(bundle, say, "down")


def _tell(bundle: Bundle, story: Story, load: Load, total: Total, say: Say) -> Counts:
    stable = load_serving(bundle.serving_yaml).models[MODEL].labels["stable"]
    version = story.version or (versions.TOO if stable == versions.GOOD else versions.GOOD)
    say(f"\n{story.title}: version {version} beside {stable}")
    last = next(reversed(_events(bundle)), None)
    _type(bundle, say, "canary", "start", MODEL, "--version", str(version), "--weight", "10", "--auto")
    end: Event | None = None
    deadline = time.monotonic() + PATIENCE_S
    while end is None or last is None or not _is_last(last):
        if time.monotonic() > deadline:
            total.wrong_ends.append(f"{story.title}: no end after {PATIENCE_S:.0f} s")
            break
        for event in history.since(_events(bundle), last):
            say(f"  {event.at[11:19]} {event.step}: {event.result}{event.reason and ': '}{event.reason}")
            total.label_moves += _moves(event)
            if event.result in ("promoted", "rolled back"):
                end = event
            last = event
        time.sleep(0.2)
    if end is not None and (end.result != story.ends or story.reason not in end.reason):
        total.wrong_ends.append(f"{story.title}: {end.result}: {end.reason}")
    counts = load.taken()
    by_label = ", ".join(f"{count} by {label or 'nobody'}" for label, count in sorted(counts.answered.items()))
    own = len(counts.failures) - len(counts.lost)
    say(f"  {counts.sent} requests: {by_label}; {own} errors of the canary's own, {len(counts.lost)} others")
    return counts


def _is_last(event: Event) -> bool:
    """The version that lost is unloaded: nothing is left to be done."""
    return event.step.startswith("retire version") and event.result == "done"


def _moves(event: Event) -> int:
    """Labels that the step moved: `move label stable from 1 to 2, canary to 3`."""
    if event.result != "done" or not event.step.startswith("move label"):
        return 0
    return len(event.step.split(", "))


def count_loads(log: str) -> tuple[int, int]:
    """Loads and unloads that the text of a server's log tells of."""
    return len(re.findall(_LOADED, log)), len(re.findall(_UNLOADED, log))


def _requests() -> dict[str, Any]:
    pixels = [np.array([row], dtype=np.float32) for row in versions.questions(40)]
    return dict(requests(ModelSpec(MODEL), [{"pixels": one} for one in pixels]))


def _events(bundle: Bundle) -> tuple[Event, ...]:
    return history.read(bundle).events


def _host(url: str) -> str:
    return url.removeprefix("http://")


def _type(bundle: Bundle, say: Say, *arguments: str) -> None:
    say(f"$ servekit {' '.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "servekit", *arguments],
        env=os.environ | {"SERVEKIT_HOME": str(bundle.root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise EngineError(f"servekit {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr[-3000:]}")
