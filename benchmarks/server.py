"""The embedded server's pace, as ratios within one run: `python -m benchmarks.server [PART ...] [--json]`.

Parts: `imagenet` (gRPC against loops that call the same session in the same process, REST against gRPC; the session has
the threads that `servekit render` gives it, or with `--pools tensorflow` TensorFlow's own), `half_plus_two` (requests a
second, p99 against p50), `floats` (1.6 MB of numbers beside orjson alone), `memory` (an idle server against TensorFlow
with the same model). Rounds take turns and ratios are of one round, the median is printed (of imagenet's short turns
the geometric mean, with its standard error): load from elsewhere then hits all sides alike. The goals are at the end of
each line; the exit status is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.load import ROOT, Load, Server, grpc_load, h2load, missing_tools, rate, rest_load, rss_kib, serving, wrk
from benchmarks.turns import Generator, Loop, Side, Turn, serving_with_loop, stolen_s, take_turns
from servekit.config import server as configuration
from servekit.protos import messages
from servekit.server.options import Options, schedulable_cpus
from servekit.tensors import to_array, to_proto

CLIENTS = 16
TURN_S = 2.0
FLOATS = 400_000
PHOTO = ROOT / "export" / "samples" / "chelsea.jpg"
IMAGENET = ROOT / "models" / "imagenet"
HALF_PLUS_TWO = ROOT / "tests" / "models" / "half_plus_two"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result. `least` and `most` are its goal; both None: only told."""

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        goal = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}" if self.most is not None else ""
        verdict = "" if not goal else f"  goal {goal}: {'met' if self.met else 'MISSED'}"
        return f"{self.name:68}{self.value:10.2f} {self.unit:6}{verdict}"


def main() -> int:
    parts: dict[str, Callable[[argparse.Namespace, Path], Iterator[Figure]]] = {
        "imagenet": imagenet,
        "half_plus_two": half_plus_two,
        "floats": floats,
        "memory": memory,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=[*parts, []], help="all, unless named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load in each round and each protocol")
    parser.add_argument("--turns", type=int, default=7, help="of each of imagenet's ways")
    parser.add_argument(
        "--pools", choices=["rendered", "tensorflow"], default="rendered", help="threads of the session"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--in-process", choices=["session"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.part or list(parts)
    if {"imagenet", "half_plus_two"} & set(chosen) and (missing := missing_tools()):
        sys.exit(f"load generators are missing; hint: apt-get install {' '.join(missing)}")
    if "imagenet" in chosen and not (IMAGENET / "1").is_dir():
        sys.exit("models/imagenet/1 is not there; hint: servekit export imagenet --version 1")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as work:
        for part in chosen:
            for figure in parts[part](options, Path(work)):
                figures.append(figure)
                if not options.json:
                    print(figure.line(), flush=True)
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"cpus": os.cpu_count(), "load": load, "figures": [asdict(figure) for figure in figures]}))
    else:
        print(f"{os.cpu_count()} CPUs, load {load:.1f} at the end")
    return 0 if all(figure.met for figure in figures) else 1


def imagenet(options: argparse.Namespace, work: Path) -> Iterator[Figure]:
    """One photo a request, 16 at a time: the session called in loops, over gRPC, over REST, in one process.

    One loop has as many threads as gRPC, another as many as there are processors, which is quicker where a run has its
    whole work in its thread; gRPC is held against the quicker one.
    """
    photo = PHOTO.read_bytes()
    request = predict_request("imagenet", image_bytes=np.array([photo], object))
    script, body = work / "photo.lua", work / "photo.json"
    body.write_text(json.dumps({"instances": [{"b64": base64.b64encode(photo).decode()}]}))
    script.write_text(f'wrk.method = "POST"\nwrk.body = io.open("{body}", "rb"):read("*a")\n')
    base_path = work / "imagenet"  # with this version alone: of several the server would take the highest
    base_path.mkdir()
    (base_path / "1").symlink_to(IMAGENET / "1")
    intra, inter = configuration.Server().pools() if options.pools == "rendered" else (0, 0)
    flags = [f"--tensorflow_intra_op_parallelism={intra}", f"--tensorflow_inter_op_parallelism={inter}"]
    threads = {"as many as processors": schedulable_cpus(), "as many as gRPC": Options().grpc_max_threads}
    with serving_with_loop(base_path, PHOTO, work, *flags) as server:
        for_ever = {"clients": CLIENTS, "seconds": 3600}
        by_grpc = Generator(h2load(server.server, request, work, **for_ever))
        by_rest = Generator(wrk(server.server, "imagenet", script, **for_ever))
        try:
            loops = {f"loop of {count} threads, {why}": Loop(server, count) for why, count in threads.items()}
            sides: dict[str, Side] = {**loops, "gRPC": by_grpc, "REST": by_rest}
            take_turns(server, sides, TURN_S, 1)  # warms up
            stolen, began = stolen_s(), time.monotonic()
            rounds = take_turns(server, sides, TURN_S, options.turns)
            stolen_share = (stolen_s() - stolen) / (time.monotonic() - began) / (os.cpu_count() or 1)
            if server.server.failed_count("imagenet"):
                sys.exit("the server counted requests that failed")
        finally:
            by_grpc.end()
            by_rest.end()
    for name in sides:
        yield Figure(f"imagenet, {name}", median(row[name].per_second for row in rounds), "img/s")
        yield Figure(
            f"imagenet, {name}, the server's processor time", median(row[name].server_ms for row in rounds), "ms"
        )
    yield Figure("imagenet, h2load's processor time", median(row["gRPC"].generator_ms for row in rounds), "ms")
    yield Figure("imagenet, taken by the host for others", 100 * stolen_share, "%")
    quickest = max(loops, key=lambda name: mean_ratio(rounds, name, "gRPC")[0])
    for name in loops:
        least = 0.95 if name == quickest and options.pools == "rendered" else None
        yield Figure(f"imagenet, gRPC / {name}", *mean_ratio(rounds, "gRPC", name), least=least)
    yield Figure("imagenet, REST / gRPC", *mean_ratio(rounds, "REST", "gRPC"), least=0.9)


def mean_ratio(rounds: Sequence[Mapping[str, Turn]], name: str, other: str) -> tuple[float, str]:
    """Of the rounds' rates, the geometric one, and its standard error."""
    logs = [math.log(row[name].per_second / row[other].per_second) for row in rounds]
    return math.exp(statistics.mean(logs)), f"\u00b1{statistics.stdev(logs) / len(logs) ** 0.5:.3f}"


def half_plus_two(options: argparse.Namespace, work: Path) -> Iterator[Figure]:
    request = predict_request("half_plus_two", x=np.array([1.0], np.float32))
    body = b'{"instances": [1.0]}'
    rounds: list[tuple[Load, Load]] = []
    with serving("half_plus_two", HALF_PLUS_TWO, work) as server:
        for number in range(options.rounds + 1):
            counted = server.ok_count("half_plus_two")
            by_grpc = grpc_load(server, "half_plus_two", request, clients=CLIENTS, seconds=options.seconds, work=work)
            by_rest = rest_load(server, "half_plus_two", body, clients=CLIENTS, seconds=options.seconds, work=work)
            check_count(server, "half_plus_two", counted, by_grpc, by_rest)
            if number:
                rounds.append((by_grpc, by_rest))
    for index, protocol in enumerate(("gRPC", "REST")):
        loads = [row[index] for row in rounds]
        name = f"half_plus_two, {protocol}, 16 clients"
        yield Figure(name, median(load.per_second for load in loads), "req/s", least=2000)
        yield Figure(f"{name}, p50", median(load.p50_ms for load in loads), "ms")
        yield Figure(f"{name}, p99 / p50", median(load.p99_ms / load.p50_ms for load in loads), "", most=4)


def floats(_options: argparse.Namespace, _work: Path) -> Iterator[Figure]:
    """400,000 float32 (1.6 MB): from bytes on the wire to an array and back, beside orjson alone."""
    from servekit.server.json_answers import row_answer
    from servekit.server.json_parse import parse
    from servekit.server.json_tensors import inputs_of
    from servekit.server.response_wire import predict_response

    values = np.random.default_rng(1).standard_normal((1, FLOATS), np.float32)
    body = orjson.dumps({"instances": values.tolist()})
    info = messages.TensorInfo(name="x:0", dtype=1)
    document = {"predictions": [float(f"{value:.9g}") for value in values[0].tolist()]}
    wire = predict_request("m", x=values)
    answered_by = messages.ModelSpec(name="m").SerializeToString()

    times = interleaved(
        {
            "decode": lambda: inputs_of(parse(body), {"x": info}),
            "loads": lambda: orjson.loads(body),
            "encode": lambda: row_answer({"y": values}),
            "dumps": lambda: orjson.dumps(document),
            "to_array": lambda: to_array(messages.PredictRequest.FromString(wire).inputs["x"]),
            "answer": lambda: predict_response({"y": values}, answered_by, as_content=False),
        }
    )
    yield Figure("400,000 floats, REST, decode", times["decode"], "ms")
    yield Figure("400,000 floats, orjson loads", times["loads"], "ms")
    yield Figure("400,000 floats, REST, encode", times["encode"], "ms")
    yield Figure("400,000 floats, orjson dumps", times["dumps"], "ms")
    yield Figure("decode / orjson loads", times["decode"] / times["loads"], "")
    yield Figure("encode / orjson dumps", times["encode"] / times["dumps"], "")
    yield Figure("400,000 floats, gRPC, decode", times["to_array"], "ms")
    yield Figure("400,000 floats, gRPC, encode", times["answer"], "ms")


def memory(_options: argparse.Namespace, work: Path) -> Iterator[Figure]:
    """Resident memory of an idle server, less that of a process that has TensorFlow and the same session."""
    command = [sys.executable, "-m", "benchmarks.server", "--in-process=session"]
    for whole, name in ((True, "import tensorflow"), (False, "the parts of TensorFlow that a server needs")):
        environment = {**os.environ, "WHOLE_TENSORFLOW": "1" if whole else ""}
        output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        alone_kib = int(output.split()[-1])
        with serving("half_plus_two", HALF_PLUS_TWO, work) as server:
            time.sleep(1)
            server_kib = server.rss_kib()
        yield Figure(f"memory: session after {name}", alone_kib / 1024, "MiB")
        yield Figure("memory: idle server", server_kib / 1024, "MiB")
        yield Figure("memory: difference", (server_kib - alone_kib) / 1024, "MiB", most=80)


class Session:
    """A SavedModel's session in this process, called as the server calls it."""

    def __init__(self, path: Path, inputs: dict[str, Any]) -> None:
        from servekit.server import session

        session.import_only_what_is_needed()
        self._servable = session.load_saved_model(path)
        signature = self._servable.signature_defs["serving_default"]
        self._feeds = {signature.inputs[name].name: array for name, array in inputs.items()}
        self._fetches = [signature.outputs[name].name for name in sorted(signature.outputs)]

    def per_second(self, threads: int, seconds: float) -> float:
        """Runs by `threads` threads, each one after the other, in a second."""
        counts = [0] * threads
        ended = threading.Event()

        def run(index: int) -> None:
            while not ended.is_set():
                self._servable.run(self._feeds, self._fetches)
                counts[index] += 1

        workers = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
        for worker in workers:
            worker.start()
        per_second = rate(lambda: sum(counts), seconds)
        ended.set()
        for worker in workers:
            worker.join()
        return per_second


def predict_request(model: str, **inputs: Any) -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = model
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array))
    data: bytes = request.SerializeToString()
    return data


def check_count(server: Server, model: str, before: int, *loads: Load) -> None:
    """The server must have counted every answer as good: a generator sees HTTP's status only, not gRPC's."""
    counted, answered = server.ok_count(model) - before, sum(load.answered for load in loads)
    if counted < answered:
        sys.exit(f"{answered} answers, but the server counted only {counted} good ones")


def interleaved(calls: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Median time of each in milliseconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def median(values: Iterator[float]) -> float:
    return statistics.median(values)


def print_session_memory() -> None:
    """In a process of its own: TensorFlow, a loaded model, one run, and what that takes in KiB."""
    if os.environ.get("WHOLE_TENSORFLOW"):
        import tensorflow  # noqa: F401
    alone = Session(HALF_PLUS_TWO / "2", {"x": np.array([1.0], np.float32)})
    alone.per_second(1, 0.1)
    print(rss_kib(os.getpid()))


if __name__ == "__main__":
    if "--in-process=session" in sys.argv:
        print_session_memory()
    else:
        sys.exit(main())
