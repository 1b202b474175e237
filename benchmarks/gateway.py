"""What the gateway costs: `python -m benchmarks.gateway [--seconds 6] [--rounds 6] [--json] ...`.

`servekit up` with models/imagenet, whose unlabelled requests (one photo each) the gateway labels; then load on the
server itself, through the gateway, and through an Envoy that does nothing but pass on, over REST and gRPC. One client
asks each way once in turn; 8 clients take turns in short rounds, each after a warm-up that does not count; the order is
random, and a request that fails ends it. Told for each: answers a second and median latency, the share of the server's
own throughput that is kept and what is added to its median, of all rounds together, with the range of the rounds in
brackets (of one client: of as many parts). The exit status is 1 when the gateway keeps less than 0.95 of the throughput
of 8 clients, or adds more than 1 ms to the median of one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import bare_envoy, one_by_one
from benchmarks.load import ROOT, free_port
from benchmarks.turns import stolen_s
from servekit.bench.generator import Generator
from servekit.bench.payload import requests
from servekit.bench.processor import cores
from servekit.bench.session import machine
from servekit.bench.traffic import Job, Request, Sample, Shape, together
from servekit.client import Client
from servekit.engine.state import EngineState, read
from servekit.gateway.address import Address
from servekit.model_spec import ModelSpec
from servekit.paths import Bundle

KEPT, ADDED_MS = 0.95, 1.0
ALONE, MANY = 1, 8
PROTOCOLS = ("REST", "gRPC")
DIRECT, GATEWAY, BARE = "server", "gateway", "bare Envoy"
WARMUP_S, TIMEOUT_S = 0.2, 30.0
MODEL = "imagenet"
_LINE = (
    "{protocol}, {clients} clients, {way:10}: {per_second:6.1f} a second, p50 {median_ms:6.2f} ms, "
    "kept {kept:.3f} ({least_kept:.3f} to {most_kept:.3f}), added {added_ms:+.2f} ms ({least_added_ms:+.2f} to "
    "{most_added_ms:+.2f})"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to the server against the server itself: of all rounds, and the least and the most of a round."""

    protocol: str
    clients: int
    way: str
    per_second: float
    median_ms: float
    kept: float
    least_kept: float
    most_kept: float
    added_ms: float
    least_added_ms: float
    most_added_ms: float


Samples = dict[tuple[str, int, str], list[Sample]]
"""By protocol, clients and way; one of each round."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of load by 8 clients for each way")
    parser.add_argument("--rounds", type=int, default=6, help="that the ways take turns in")
    parser.add_argument("--requests", type=int, default=300, help="of one client for each way")
    parser.add_argument("--photo", type=Path, default=ROOT / "export" / "samples" / "chelsea.jpg")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    photo = options.photo.read_bytes()
    with _stack() as running, tempfile.TemporaryDirectory() as folder:
        servers = {
            "rest": Address("127.0.0.1", running.server_rest_port),
            "grpc": Address("127.0.0.1", running.server_grpc_port),
        }
        with bare_envoy.in_front_of(servers, Path(folder)) as bare:
            urls = {
                ("REST", DIRECT): _url("http", servers["rest"]),
                ("gRPC", DIRECT): _url("grpc", servers["grpc"]),
                ("REST", GATEWAY): running.rest_url,
                ("gRPC", GATEWAY): running.grpc_url,
                ("REST", BARE): _url("http", bare["rest"]),
                ("gRPC", BARE): _url("grpc", bare["grpc"]),
            }
            began, stolen = time.monotonic(), stolen_s()
            asked = _requests(running, photo)
            samples = {
                **_alone(urls, asked, options.requests, options.rounds),
                **_many(urls, asked, options.seconds / options.rounds, options.rounds),
            }
            stolen = (stolen_s() - stolen) / (time.monotonic() - began) / cores()
    rows = list(compared(samples))
    if options.json:
        about = {"machine": dict(machine()), "stolen": stolen, "photo_bytes": len(photo), "rounds": options.rounds}
        print(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{machine()['cpu']}, {machine()['cores']} cores, a photo of {len(photo) / 1000:.0f} kB")
        print(f"taken away by this machine's host meanwhile: {stolen:.0%} (above 2 %, latencies say little)")
        for row in rows:
            print(_LINE.format(**asdict(row)))
    ours = [row for row in rows if row.way == GATEWAY]
    kept = all(row.kept >= KEPT for row in ours if row.clients == MANY)
    quick = all(row.added_ms <= ADDED_MS for row in ours if row.clients == ALONE)
    return 0 if kept and quick else 1


def compared(samples: Samples) -> Iterator[Row]:
    for (protocol, clients, way), rounds in samples.items():
        direct = samples[protocol, clients, DIRECT]
        kept = [_rate([one]) / _rate([other]) for one, other in zip(rounds, direct, strict=True)]
        added = [_median_ms([one]) - _median_ms([other]) for one, other in zip(rounds, direct, strict=True)]
        yield Row(
            protocol,
            clients,
            way,
            per_second=_rate(rounds),
            median_ms=_median_ms(rounds),
            kept=_rate(rounds) / _rate(direct),
            least_kept=min(kept),
            most_kept=max(kept),
            added_ms=_median_ms(rounds) - _median_ms(direct),
            least_added_ms=min(added),
            most_added_ms=max(added),
        )


def _rate(rounds: Sequence[Sample]) -> float:
    sample = together(list(rounds))
    return len(sample.latencies_s) / sample.seconds


def _median_ms(rounds: Sequence[Sample]) -> float:
    return float(np.median(together(list(rounds)).latencies_s)) * 1e3


Asked = Mapping[str, tuple[Request, ...]]
"""By protocol."""


def _alone(urls: Mapping[tuple[str, str], str], asked: Asked, count: int, parts: int) -> Samples:
    ways = {(protocol, way): (url, asked[protocol][0]) for (protocol, way), url in urls.items()}
    samples: Samples = {}
    for (protocol, way), found in one_by_one.latencies_s(ways, count, TIMEOUT_S).items():
        each = np.array_split(np.array(found), parts)
        samples[protocol, ALONE, way] = [Sample(float(part.sum()), part) for part in each]
    return samples


def _many(urls: Mapping[tuple[str, str], str], asked: Asked, seconds: float, rounds: int) -> Samples:
    """Exits where a request fails: a rate of which errors are a part says nothing."""
    samples: Samples = {(protocol, MANY, way): [] for protocol, way in urls}
    ways = [(protocol, way, url) for (protocol, way), url in urls.items()]
    order = random.Random(0)  # noqa: S311
    with Generator() as generator:
        for protocol, _, url in ways:  # its first answers take the server long
            generator.run(Job(url, asked[protocol], Shape(clients=2), 0.2, 0.5, TIMEOUT_S))
        for _ in range(rounds):
            for protocol, way, url in order.sample(ways, len(ways)):
                sample = generator.run(Job(url, asked[protocol], Shape(clients=MANY), seconds, WARMUP_S, TIMEOUT_S))
                if sample.errors or not len(sample.latencies_s):
                    sys.exit(f"{way}, {protocol}: {dict(sample.errors) or 'no answer in a round'}")
                samples[protocol, MANY, way].append(sample)
    return samples


def _requests(running: EngineState, photo: bytes) -> dict[str, tuple[Request, ...]]:
    with Client(running.grpc_url) as client:
        signature = client.metadata(MODEL).signature("")
    assert signature is not None
    [name] = signature.inputs
    return requests(ModelSpec(MODEL), [{name: np.array([photo], object)}])


def _url(scheme: str, address: Address) -> str:
    return f"{scheme}://{address.host}:{address.port}"


@contextmanager
def _stack() -> Iterator[EngineState]:
    """A bundle of its own with the first version of the model."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(ROOT / "config" / "templates", home / "config" / "templates")
        version = sorted(path.parent for path in (ROOT / "models" / MODEL).glob("*/saved_model.pb"))[0]
        (home / "models" / MODEL).mkdir(parents=True)
        (home / "models" / MODEL / "1").symlink_to(version.resolve())
        (home / "export").mkdir()
        (home / "config" / "serving.yaml").write_text(
            f"models: {{{MODEL}: {{labels: {{stable: 1}}}}}}\n"
            f"server: {{port: {free_port()}, rest_api_port: {free_port()}}}\n"
        )
        command = [sys.executable, "-m", "servekit"]
        environment = {**os.environ, "SERVEKIT_HOME": str(home)}
        try:
            up = [*command, "up", "--detach", "--engine", "embedded", "--no-demo"]
            subprocess.run(up, env=environment, cwd=ROOT, check=True, stdout=sys.stderr)
            running = read(Bundle(home))
            assert running is not None
            yield running
        finally:
            subprocess.run([*command, "down"], env=environment, cwd=ROOT, check=False, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
