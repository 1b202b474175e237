"""The embedded server in a process that also calls the same session in a loop, for `benchmarks.server imagenet`.

`python -m benchmarks.session_in_server PHOTO FLAG...`: the flags of `servekit serve` for one model named `imagenet`.
Commands come line by line on standard input: `go N` and `stop` for the loop of N threads, and `count`, answered with
the number of runs of the session so far, whoever asked for them, and the process's processor time in seconds. A run
that has not ended counts in part: sixteen that end together would else be in this count or in the next. The end of the
input ends the server.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.model_spec import ModelSpec
from servekit.server.main import GRPC_EXPERIMENTS
from servekit.server.options import parse
from servekit.server.server import Server
from servekit.server.session import SavedModelSession

MOST_THREADS = 16
MODEL = "imagenet"


def main() -> None:
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    server = Server(parse(sys.argv[2:]).options)
    server.start()
    core = server._core
    assert core is not None
    with core.handle(ModelSpec(MODEL)) as handle:
        servable = handle.servable
        assert isinstance(servable, SavedModelSession), "the loop calls what an unbatched request calls"
        runs = Runs(servable)
        going = [threading.Event() for _ in range(MOST_THREADS)]
        for event in going:
            threading.Thread(target=loop, args=(servable, Path(sys.argv[1]).read_bytes(), event), daemon=True).start()
        print("ready", flush=True)
        for command in sys.stdin:
            verb, *number = command.split()
            if verb == "go":
                for event in going[: int(number[0])]:
                    event.set()
            elif verb == "stop":
                for event in going:
                    event.clear()
            else:
                print(runs.so_far(), time.process_time(), flush=True)
    server.stop(1)
    os._exit(0)


def loop(servable: SavedModelSession, photo: bytes, going: threading.Event) -> None:
    """Runs the signature that a request without a signature's name gets, for the same photo, all outputs fetched."""
    signature = servable.signature_defs["serving_default"]
    feeds = {signature.inputs["image_bytes"].name: np.array([photo], object)}
    fetches = [signature.outputs[name].name for name in sorted(signature.outputs)]
    while True:
        going.wait()
        servable.run(feeds, fetches)


class Runs:
    """Counts a session's runs, whoever calls it."""

    def __init__(self, servable: SavedModelSession) -> None:
        self._run = servable.run
        self._lock = threading.Lock()
        self._ended = 0
        self._took = 0.1
        self._began: dict[int, float] = {}
        servable.run = self._counted  # type: ignore[method-assign]

    def so_far(self) -> float:
        """Those that have ended, and of the others the share of the time that runs took lately."""
        with self._lock:
            now = time.perf_counter()
            return self._ended + sum(min((now - began) / self._took, 1.0) for began in self._began.values())

    def _counted(self, feeds: Mapping[str, NDArray[Any]], fetches: Sequence[str]) -> list[NDArray[Any]]:
        thread, began = threading.get_ident(), time.perf_counter()
        self._began[thread] = began
        try:
            return self._run(feeds, fetches)
        finally:
            with self._lock:
                del self._began[thread]
                self._ended += 1
                self._took += (time.perf_counter() - began - self._took) / 16


if __name__ == "__main__":
    main()
