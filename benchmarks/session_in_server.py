"""The embedded server in a process that also calls the same session in a loop, for `benchmarks.server imagenet`.

`python -m benchmarks.session_in_server PHOTO FLAG...`: the flags of `servekit serve` for one model named `imagenet`.
Commands come line by line on standard input: `go` and `stop` for the loop of 16 threads, and `count`, answered with the
number of runs of the session so far, whoever asked for them, and the process's processor time in seconds. The end of
the input ends the server.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from servekit.model_spec import ModelSpec
from servekit.server.main import GRPC_EXPERIMENTS
from servekit.server.options import parse
from servekit.server.server import Server
from servekit.server.session import SavedModelSession

THREADS = 16
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
        going = threading.Event()
        for _ in range(THREADS):
            threading.Thread(target=loop, args=(servable, Path(sys.argv[1]).read_bytes(), going), daemon=True).start()
        print("ready", flush=True)
        for command in sys.stdin:
            if command == "go\n":
                going.set()
            elif command == "stop\n":
                going.clear()
            else:
                print(runs_of(servable), time.process_time(), flush=True)
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


def runs_of(servable: SavedModelSession) -> int:
    servable._graphs.count()
    return sum(servable._graphs._session_runs.values.values())


if __name__ == "__main__":
    main()
