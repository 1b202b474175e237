"""What is told of a measurement, as numbers and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from servekit.bench.processor import bottleneck, cores
from servekit.bench.traffic import Sample, Shape

SCHEMA = 1
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
BUSY = 0.85
"""Of a core: a generator that computes that much of the time measures itself."""
LATE_S = 0.005
"""Open loop: requests sent later than that (at p99) were not sent at the rate asked for."""


@dataclass(frozen=True, slots=True)
class Run:
    """One protocol, target and level of load. `latency_ms` is None where too many requests failed to tell one."""

    protocol: str
    target: str
    """`label stable`, `version 2`, or empty for the server's choice."""
    loop: str
    """closed or open."""
    level: float
    """Clients, or requests a second."""
    seconds: float
    requests: int
    errors: Mapping[str, int]
    per_second: float
    """Good answers; items of a batch count each."""
    latency_ms: Mapping[str, float] | None
    request_bytes: float
    answer_bytes: float
    client_cpu: float
    server_cpu: float | None
    """Cores in use by a server process on this machine; None where it cannot be seen."""
    client_bound: bool
    """The generator was at its own limit: the server may do better than this."""
    gateway_cpu: float | None = None
    """Likewise of a gateway that `servekit up` started."""
    bottleneck: str = "unknown"
    """Who was at the limit: see `processor.bottleneck`."""

    @property
    def key(self) -> tuple[str, str, str, float]:
        return self.protocol, self.target, self.loop, self.level

    @property
    def error_rate(self) -> float:
        return sum(self.errors.values()) / self.requests if self.requests else 1.0


def judged(
    sample: Sample,
    shape: Shape,
    *,
    protocol: str,
    target: str,
    batch: int,
    used: Mapping[str, float],
    max_errors: float,
) -> Run:
    """`used`: cores in use by `server`, `gateway`, and `machine` (everything), as far as they are known.
    `max_errors`: share of failed requests above which no latency is told: what is left says nothing."""
    failed, good = sum(sample.errors.values()), len(sample.latencies_s)
    count = max(sample.requests, 1)
    tell = good > 0 and failed <= max_errors * count
    bound = sample.cpu > BUSY or (bool(len(sample.late_s)) and float(np.percentile(sample.late_s, 99)) > LATE_S)
    serving = {name: value for name, value in used.items() if name != "machine"}
    return Run(
        protocol=protocol,
        target=target,
        loop="closed" if shape.clients is not None else "open",
        level=shape.level,
        seconds=round(sample.seconds, 3),
        requests=sample.requests,
        errors=dict(sample.errors),
        per_second=round(good * batch / sample.seconds, 2),
        latency_ms=_latency(sample) if tell else None,
        request_bytes=round(sample.sent_bytes / count, 1),
        answer_bytes=round(sample.received_bytes / count, 1),
        client_cpu=round(sample.cpu, 3),
        server_cpu=_rounded(used.get("server")),
        client_bound=bound,
        gateway_cpu=_rounded(used.get("gateway")),
        bottleneck=bottleneck(serving, used.get("machine"), cores(), client_bound=bound),
    )


def document(runs: Sequence[Run], about: Mapping[str, Any]) -> dict[str, Any]:
    """`about`: model, machine, date, options. Readers check `schema`."""
    return {"schema": SCHEMA, **about, "runs": [asdict(run) for run in runs], "ratios": list(ratios(runs))}


def runs_of(document: Mapping[str, Any]) -> list[Run]:
    """Raises ValueError for anything but a document of this schema."""
    if document.get("schema") != SCHEMA:
        raise ValueError(f"schema {document.get('schema')!r}, expected {SCHEMA}")
    try:
        return [Run(**run) for run in document["runs"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no document of servekit bench: {error}") from None


def ratios(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """gRPC against REST, and each further target against the first, on the same load in the same run."""
    by_key = {run.key: run for run in runs}
    targets = list(dict.fromkeys(run.target for run in runs))
    for run in runs:
        other = by_key.get(("REST", *run.key[1:]))
        if run.protocol == "gRPC" and other:
            yield _ratio(run, other, "gRPC / REST")
        first = by_key.get((run.protocol, targets[0], *run.key[2:]))
        if run.target != targets[0] and first:
            yield _ratio(run, first, f"{run.target or 'unlabelled'} / {first.target or 'unlabelled'}")


def compared(runs: Sequence[Run], others: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Each run against the one of the same load in another document."""
    by_key = {run.key: run for run in others}
    for run in runs:
        if run.key in by_key:
            yield _ratio(run, by_key[run.key], "now / then")


def _ratio(run: Run, other: Run, what: str) -> dict[str, Any]:
    ours, theirs = run.latency_ms or {}, other.latency_ms or {}
    return {
        "what": what,
        "protocol": run.protocol,
        "target": run.target,
        "loop": run.loop,
        "level": run.level,
        "per_second": _divided(run.per_second, other.per_second),
        **{name: _divided(ours.get(name), theirs.get(name)) for name in ("p50", "p99")},
    }


def _divided(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _latency(sample: Sample) -> dict[str, float]:
    """Milliseconds, of good answers."""
    values = np.percentile(sample.latencies_s, list(PERCENTILES.values())) * 1e3
    named = dict(zip(PERCENTILES, values.tolist(), strict=True))
    return {name: round(value, 3) for name, value in {**named, "max": float(sample.latencies_s.max()) * 1e3}.items()}
